"""Hair removal: what is drawn over a lesion goes, what belongs to it stays."""

from pathlib import Path

import numpy as np
import pytest
from site_images import site_data, write_images

from sites.acquisition import AcquisitionProfile
from sites.artefacts import hair
from sites.cache import PixelSettings, open_cache
from sites.criteria import CRITERIA
from sites.hair import WORKING_SIDE, hair_mask, without_hair
from sites.images import Pixels
from sites.lesions import render


def under_strands(clean: Pixels, *lines: tuple[float, float, float, float], wide: float = 0.012) -> Pixels:
    """Return ``clean`` under dark strands, each from (x, y) to (x, y) in fractions of the sides."""
    height, width = clean.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width]
    found = clean.copy()
    for x0, y0, x1, y1 in lines:
        ax, ay, bx, by = x0 * width, y0 * height, x1 * width, y1 * height
        along = ((columns - ax) * (bx - ax) + (rows - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)
        along = np.clip(along, 0, 1)
        away = np.hypot(columns - ax - along * (bx - ax), rows - ay - along * (by - ay))
        found[away <= wide * min(height, width) / 2] = (40, 30, 25)
    return found


def skin(height: int = 150, width: int = 200) -> Pixels:
    """Return smooth skin that gets darker from left to right, in every channel at its own pace."""
    slope = np.linspace(0, 30, width)[None, :, None] * np.array([1.0, 0.8, 0.6])
    return np.rint(np.array([215.0, 170.0, 150.0]) - np.repeat(slope, height, axis=0)).astype(np.uint8)


@pytest.mark.parametrize("size", [(150, 200), (300, 400), (900, 1200)])
def test_a_strand_on_smooth_skin_is_found_and_mended(size: tuple[int, int]) -> None:
    """Whatever the camera's resolution, what was under a straight hair is its surroundings, within a few
    levels of 255; nothing else changes."""
    clean = skin(*size)
    hairy = under_strands(clean, (0.1, 0.2, 0.9, 0.7), (0.3, 0.95, 0.6, 0.05))
    truth = (hairy != clean).any(axis=2)
    mask, mended = hair_mask(hairy), without_hair(hairy)
    assert (mask & truth).sum() / truth.sum() > 0.95
    assert np.abs(mended.astype(int) - clean)[truth & mask].max() <= 12
    np.testing.assert_array_equal(mended[~mask], hairy[~mask])
    assert mask.mean() < 3 * truth.mean(), "the mask is the strand and its edge"


def test_images_without_hair_are_the_same_array() -> None:
    clean = skin()
    assert without_hair(clean) is clean
    for shape in ((150, 200, 3), (1, 1, 3), (5, 400, 3)):
        assert not hair_mask(np.full(shape, 128, np.uint8)).any()
    assert not hair_mask(np.zeros((60, 80, 3), np.uint8)).any()


@pytest.mark.parametrize("diagnosis", list(CRITERIA))
def test_bare_lesions_of_every_diagnosis_stay(diagnosis: str) -> None:
    """Networks, globules, streaks and vessels are thin or dark as well."""
    touched = [hair_mask(render(diagnosis, np.random.default_rng(20_000 + n), 150).image) for n in range(3)]
    assert np.mean(touched) < 0.01


def test_dots_short_and_wide_strokes_and_vessels_are_no_hair() -> None:
    """A row of globules; a stroke of a tenth of the image; a band three times as wide as hair may be; and a
    line that only green and blue see, as a vessel is."""
    clean = skin()
    dots = [(0.2 + 0.08 * n, 0.3, 0.201 + 0.08 * n, 0.3) for n in range(8)]
    assert not hair_mask(under_strands(clean, *dots, wide=0.04)).any()
    assert not hair_mask(under_strands(clean, (0.4, 0.5, 0.47, 0.5))).any()
    assert not hair_mask(under_strands(clean, (0.1, 0.5, 0.9, 0.5), wide=0.09)).any()
    vessel = under_strands(clean, (0.1, 0.2, 0.9, 0.7))
    vessel[..., 0] = clean[..., 0]
    assert not hair_mask(vessel).any()


def test_drawn_hair_is_mostly_mended() -> None:
    """Over six lesions the error to the bare image falls to less than half."""
    before, after = [], []
    for number in range(6):
        rng = np.random.default_rng(30_000 + number)
        bare = render("nv", rng, 150).image
        drawn = hair(bare.astype(np.float32) / 255, rng, 12)
        hairy = np.rint(np.clip(drawn, 0, 1) * 255).astype(np.uint8)
        if (drawn * 255 - bare).mean() > 0:
            continue  # light strands, which stay
        before.append(np.abs(hairy.astype(int) - bare).mean())
        after.append(np.abs(without_hair(hairy).astype(int) - bare).mean())
    assert len(before) >= 3
    assert np.mean(after) < 0.5 * np.mean(before)


def test_large_images_are_looked_at_small() -> None:
    """A hair of a hundredth of the side is found in a picture of many times the working side."""
    clean = skin(6 * WORKING_SIDE, 8 * WORKING_SIDE)
    hairy = under_strands(clean, (0.1, 0.2, 0.9, 0.7))
    assert hair_mask(hairy).shape == clean.shape[:2]
    assert (without_hair(hairy) != hairy).any()


def test_the_pixel_cache_sees_through_the_device_first(tmp_path: Path) -> None:
    """Hair that a site's device puts on an image is removed after it."""
    data = site_data(write_images(tmp_path / "images", 4), acquisition=AcquisitionProfile(hair=1.0))
    left, removed = (
        open_cache(data, PixelSettings(image_size=32, hair=one), tmp_path / "work")
        for one in ("none", "removed")
    )
    assert left.folder != removed.folder
    assert removed.settings.hair == "removed"
    assert left.fingerprints.equals(removed.fingerprints)
