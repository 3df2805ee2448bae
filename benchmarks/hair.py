"""What removing hair finds, what it mends and what it must not touch: simulated lesions with drawn hair.

Every lesion of the generator is seen twice: bare, and with 5 to 40 strands drawn over it, so that it is
known where hair lies and what it hides. ``--images`` also times the files of a folder and, with ``--sheet``,
lays 24 of those that were changed beside what became of them, for the eye alone.

    python -m benchmarks.hair [--lesions 240] [--images FOLDER [--sheet sheet.png]]
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.claims import told
from fedderm.evaluation.proportions import wilson
from sites.artefacts import hair
from sites.criteria import CRITERIA
from sites.errors import ImageUnreadable
from sites.hair import Mask, hair_mask, without_hair
from sites.images import Pixels, read_image
from sites.lesions import RenderedLesion, render

SEEN = 0.08
"""Hair is where drawing it changed a channel by more, of 0..1: less cannot be told from skin."""
KEPT = ("typical_network", "atypical_network", "streaks", "regular_globules", "irregular_globules")
"""Structures that are thin or dark, and a sign."""
TUNED = 10_000
"""The thresholds of sites.hair were chosen on lesions with seeds below this one."""


@dataclass(frozen=True)
class Pair:
    """A lesion, and the same under hair."""

    bare: RenderedLesion
    hairy: Pixels
    truth: Mask
    dark: bool


def pairs(lesions: int, size: int) -> Iterator[Pair]:
    """Yield lesions of all diagnoses in turn, ``size`` pixels high."""
    for number in range(lesions):
        rng = np.random.default_rng(TUNED + number)
        bare = render(list(CRITERIA)[number % len(CRITERIA)], rng, size)
        clean = bare.image.astype(np.float32) / np.float32(255)
        change = hair(clean, rng, int(rng.integers(5, 41))) - clean
        truth = np.abs(change).max(axis=2) > SEEN
        hairy = np.rint(np.clip(clean + change, 0, 1) * 255).astype(np.uint8)
        yield Pair(bare, hairy, truth, bool(change[truth].mean() < 0))


def error(one: Pixels, other: Pixels, where: Mask | None = None) -> float:
    """Return the mean absolute difference of grey levels, 0..255, of all pixels or of some."""
    found = np.abs(one.astype(np.float64) - other).mean(axis=2)
    return float(found.mean() if where is None else found[where].mean())


def interval(values: Sequence[float]) -> str:
    """Return the mean with its 95 % interval over images (normal approximation) and their number."""
    found = np.asarray(values)
    half = 1.96 * found.std(ddof=1) / len(found) ** 0.5
    return f"{found.mean():.3f} [{found.mean() - half:.3f}, {found.mean() + half:.3f}], n {len(found)}"


def among(hits: int, n: int) -> str:
    """Return a count with the 95 % Wilson interval of its share."""
    low, high = wilson(hits, n)
    return f"{hits} of {n} [{low:.3f}, {high:.3f}]"


def row(lesions: int, size: int) -> None:
    """Print what is found and mended at one size."""
    found: dict[str, list[float]] = {}
    changed = 0

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for pair in pairs(lesions, size):
        begun = time.perf_counter()
        mended = without_hair(pair.hairy)
        add("ms an image", 1000 * (time.perf_counter() - begun))
        mask, kind = hair_mask(pair.hairy), "dark" if pair.dark else "light"
        add(f"{kind} hair: recall of its pixels", float((mask & pair.truth).sum() / pair.truth.sum()))
        if pair.dark:
            if mask.any():
                add("dark hair: precision of the mask", float((mask & pair.truth).sum() / mask.sum()))
            for where, part in (("on hair", pair.truth), ("elsewhere", ~pair.truth), ("all pixels", None)):
                add(f"error before, {where}", error(pair.hairy, pair.bare.image, part))
                add(f"error after, {where}", error(mended, pair.bare.image, part))
        wrong = hair_mask(pair.bare.image)
        changed += bool(wrong.any())
        add("bare: share of pixels changed", float(wrong.mean()))
        for name in KEPT:
            structure = pair.bare.pattern_masks.get(name)
            if structure is not None and structure.any():
                add(f"bare: share of {name} changed", float((wrong & structure).sum() / structure.sum()))
    print(f"\n{size} pixels high")
    for name in sorted(found):
        print(f"| {name} | {interval(found[name])} |", flush=True)
    print(f"| bare: images changed | {among(changed, lesions)} |", flush=True)


def real(folder: Path, sheet: Path | None, most: int = 400) -> None:
    """Print how much of a folder's images is changed, and how long it takes; draw a sheet."""
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    times, shares, tiles = [], [], list[NDArray[np.uint8]]()
    for place in np.random.default_rng(1).permutation(len(files))[:most]:
        try:
            pixels = read_image(files[place])
        except ImageUnreadable:
            continue
        begun = time.perf_counter()
        mended = without_hair(pixels)
        times.append(1000 * (time.perf_counter() - begun))
        mask = hair_mask(pixels)
        shares.append(mask.mean())
        if mask.any() and len(tiles) < 24:
            marked = np.where(mask[..., None], np.array([0, 255, 0], np.uint8), pixels)
            tiles.append(np.concatenate([pixels, mended, marked], axis=1))
    changed, n = int(np.count_nonzero(shares)), len(shares)
    print(f"\n{folder.name}: {among(changed, n)} images changed, {np.mean(shares):.4f} of their pixels")
    print(f"median {np.median(times):.0f} ms an image, 95 % below {np.quantile(times, 0.95):.0f} ms")
    if sheet is not None and tiles:
        tall, wide = (max(one.shape[axis] for one in tiles) for axis in (0, 1))
        page = Image.new("RGB", (3 * wide, -(-len(tiles) // 3) * tall), "white")
        for place, tile in enumerate(tiles):
            page.paste(Image.fromarray(tile), (place % 3 * wide, place // 3 * tall))
        page.save(sheet)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lesions", type=int, default=240)
    parser.add_argument("--sizes", type=int, nargs="*", default=[150, 224, 450])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--sheet", type=Path)
    asked = parser.parse_args()
    for size in asked.sizes:
        row(asked.lesions, size)
    if asked.images is not None:
        real(asked.images, asked.sheet)


if __name__ == "__main__":
    told(main)
