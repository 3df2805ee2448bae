"""Acquisition profiles change what they say they change, by as much as they say."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.stats import binom

from sites.acquisition import AcquisitionProfile, apply

GREY = np.full((120, 160, 3), 120, np.uint8)


def seen(
    image: NDArray[np.uint8] = GREY, seed: int = 0, malignant: bool = False, **settings: Any
) -> NDArray[np.uint8]:
    return apply(image, AcquisitionProfile(**settings), np.random.default_rng(seed), malignant)


def speckled() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(60, 180, (120, 160, 3), dtype=np.uint8)


def test_an_empty_profile_changes_nothing() -> None:
    image = speckled()
    assert np.array_equal(seen(image), image)


def test_gains_multiply_the_channels() -> None:
    means = seen(channel_gains=(1.1, 0.9, 1.25)).mean((0, 1))
    assert means == pytest.approx([132, 108, 150], abs=0.5)


def test_gain_jitter_has_the_stated_spread() -> None:
    logs = np.array(
        [np.log(seen(seed=s, gain_jitter=(0.05, 0.0, 0.1)).mean((0, 1)) / 120) for s in range(400)]
    )
    # The standard error of a standard deviation from n draws is sd / sqrt(2n): 3.5 % here.
    assert logs.std(0) == pytest.approx([0.05, 0.0, 0.1], rel=0.14, abs=0.003)


def test_gamma_and_saturation_follow_their_formulas() -> None:
    assert seen(gamma=1.25)[0, 0, 0] == round(255 * (120 / 255) ** 1.25)
    red = np.full((40, 40, 3), (200, 100, 100), np.uint8)
    grey = 0.299 * 200 + 0.701 * 100
    assert seen(red, saturation=0.5)[0, 0].tolist() == [
        round(grey + 0.5 * (c - grey)) for c in (200, 100, 100)
    ]


def test_black_corners_are_black_and_leave_the_middle() -> None:
    image = seen(black_corners=1.0)
    assert image[0, 0].max() == image[-1, -1].max() == 0
    assert np.array_equal(image[50:70, 70:90], GREY[50:70, 70:90])


def test_a_vignette_takes_the_stated_light_from_the_corners() -> None:
    image = seen(vignette=0.3)
    assert image[0, 0, 0] == pytest.approx(120 * 0.7, abs=1.5)
    assert image[60, 80, 0] == 120


def test_noise_has_the_stated_deviation_and_blur_removes_detail() -> None:
    assert seen(noise=0.03).std() == pytest.approx(0.03 * 255, rel=0.02)
    assert seen(speckled(), blur=1.2).std() < 0.6 * speckled().std()


def test_zoom_enlarges_about_the_middle() -> None:
    image = GREY.copy()
    image[50:70, 70:90] = 250
    areas = {zoom: (seen(image, zoom=zoom)[..., 0] > 185).sum() for zoom in (0.7, 1.0, 1.5)}
    assert areas[1.5] == pytest.approx(400 * 1.5**2, rel=0.1)
    assert areas[0.7] == pytest.approx(400 * 0.7**2, rel=0.15)


def test_zooming_out_of_a_circular_field_shows_black_beyond_it() -> None:
    image = seen(seen(black_corners=1.0), zoom=0.7)
    assert image[0].max() == image[:, 0].max() == 0
    assert seen(zoom=0.7).min() == 120


@pytest.mark.parametrize("artefact", ["hair", "ruler", "bubbles", "ink"])
def test_an_artefact_that_is_certain_marks_the_image(artefact: str) -> None:
    profile = AcquisitionProfile.model_validate({artefact: 1.0})
    for seed in range(5):
        marked = apply(GREY, profile, np.random.default_rng(seed), False)
        assert np.abs(marked.astype(int) - 120).max() > 30


def test_artefact_rates_depend_on_the_label_as_stated() -> None:
    rates = {"benign": 0.3, "malignant": 0.8}
    image = GREY[::4, ::4].copy()
    for malignant, rate in ((False, 0.3), (True, 0.8)):
        marked = sum(not np.array_equal(seen(image, s, malignant, ruler=rates), image) for s in range(300))
        low, high = binom.interval(0.9999, 300, rate)
        assert low <= marked <= high


def test_one_setting_does_not_reshuffle_another() -> None:
    with_ruler = seen(seed=3, ruler=1.0, noise=0.0).astype(int)
    with_both = seen(seed=3, ruler=1.0, gain_jitter=(0.01, 0.01, 0.01)).astype(int)
    assert np.array_equal(with_ruler < 60, with_both < 60)


def test_the_same_generator_state_gives_the_same_bytes() -> None:
    profile = AcquisitionProfile.draw(5)
    first, second, other = (apply(speckled(), profile, np.random.default_rng(s), True) for s in (9, 9, 10))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_device_seed_draws_within_the_ranges_and_can_be_overridden() -> None:
    for seed in range(50):
        device = AcquisitionProfile.draw(seed)
        assert 0.8 <= device.gamma <= 1.25
        assert device.jpeg_quality is not None
        assert 50 <= device.jpeg_quality <= 95
    written = AcquisitionProfile.model_validate({"device_seed": 3, "gamma": 2.0})
    assert written == AcquisitionProfile.draw(3).model_copy(update={"gamma": 2.0})
    assert AcquisitionProfile.model_validate(written.model_dump()) == written


@pytest.mark.parametrize(
    "wrong", [{"rular": 0.1}, {"ruler": 1.2}, {"hair_strands": (9, 2)}, {"device_seed": -1}]
)
def test_impossible_profiles_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AcquisitionProfile.model_validate(wrong)


def test_only_rgb_bytes_are_taken() -> None:
    with pytest.raises(ValueError, match="RGB image"):
        seen(GREY[..., 0])


def test_it_applies_to_real_images(shared_data: Any) -> None:
    from sites.images import read_image

    path = sorted((shared_data / "ham10000" / "HAM10000_images").glob("*.jpg"))[0]
    image = read_image(path)
    plain = seen(image, channel_gains=(0.8, 1.0, 1.0)).mean((0, 1)) / image.mean((0, 1))
    assert plain == pytest.approx([0.8, 1.0, 1.0], rel=0.01)
