"""How far a single image's features lie from what training sites' images look like.

The squared distance to the nearest class mean, in units of the spread within classes: Lee et al., "A Simple
Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018, Eq. 2,
with a diagonal covariance, for the sums and sums of squares that leave a site tell no other. What is far is
not computed from a distribution but counted: the training sites say how far their own calibration images lie.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from fedderm.evaluation.disclosure import merge_map
from fedderm.evaluation.scores import Floats, Ints
from fedderm.evaluation.shift_reference import Block

BINS: Final = 512
EDGES: Final = np.geomspace(0.05, 50.0, BINS - 1)
"""``(511,)`` of the histograms that travel: 1.4 % apart."""

LEVEL: Final = 0.99
"""Share of the training sites' calibration images beyond which an image is called foreign (a choice)."""

FEWEST_IMAGES: Final = 100
"""Calibration images from which there is a 99th percentile."""

_NAME: Final = "distances"


def distances(block: Block, features: npt.ArrayLike) -> Floats:
    """Return the distance (n,) of images' ``features`` (n, D): root mean square in standard deviations.

    To the nearest mean of a class that the block has. Raises ValueError for another width, and where the
    block has no class.
    """
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(block.scale):
        raise ValueError(f"distance: expected {len(block.scale)} features an image, found {rows.shape}")
    means = block.means[block.numbers > 0]
    if not len(means):
        raise ValueError("distance: the training sites sent the mean of no class")
    squares = [(((rows - mean) / block.scale) ** 2).mean(axis=1) for mean in means]
    return np.asarray(np.sqrt(np.min(squares, axis=0)))


def distance_histogram(found: Floats, min_cell: int = 0) -> Ints:
    """Return how many of the distances ``found`` (n,) lie in each bin, ``(512,)``; they add up over sites.

    No cell is below ``min_cell``: neighbours are gathered and reported at the lowest, so that what is hidden
    warns too often rather than too seldom. Fewer images than that are not reported at all.
    """
    rows = np.bincount(np.searchsorted(EDGES, found, side="right"), minlength=BINS)
    if len(found) < min_cell:
        return np.zeros(BINS, np.int64)
    return np.bincount(merge_map(rows, min_cell, "lowest"), weights=rows, minlength=BINS).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Familiar:
    """Where training sites' images lie, and from where on an image is foreign to them."""

    block: Block
    histogram: Ints
    """``(512,)`` of the training sites' calibration images."""

    @property
    def images(self) -> int:
        """Return how many calibration images stand behind the level."""
        return int(self.histogram.sum())

    @property
    def level(self) -> float:
        """Return the distance beyond which at most 1 % of the calibration images lie: a bin's upper edge."""
        below = np.cumsum(self.histogram) / self.images
        return float(EDGES[min(int(np.argmax(below >= LEVEL)), BINS - 2)])

    def of(self, features: npt.ArrayLike) -> Floats:
        """Return the distances (n,) of ``features`` (n, D) over the level: above 1 is foreign."""
        return np.asarray(distances(self.block, features) / self.level)

    @classmethod
    def from_arrays(cls, block: Block, arrays: Mapping[str, npt.NDArray[Any]]) -> Self | None:
        """Return what ``to_arrays`` wrote; None where there is none, or of fewer than 100 images.

        Raises ValueError where it is no histogram.
        """
        if _NAME not in arrays:
            return None
        found = cls(block, checked(arrays[_NAME]))
        return found if found.images >= FEWEST_IMAGES else None


def to_arrays(histogram: Ints) -> dict[str, npt.NDArray[Any]]:
    """Return the histogram as a named array, for a message and for a model's folder; none of no image."""
    return {_NAME: histogram} if histogram.any() else {}


def from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> Ints:
    """Return the histogram of a site's answer, zeros where it has none; raises ValueError for another."""
    return checked(arrays[_NAME]) if _NAME in arrays else np.zeros(BINS, np.int64)


def checked(histogram: npt.NDArray[Any]) -> Ints:
    """Return the histogram of distances; raises ValueError where it is none."""
    if histogram.shape != (BINS,) or histogram.dtype.kind not in "iu" or (histogram < 0).any():
        raise ValueError(f"distances: expected {BINS} counts, found {histogram.dtype} {histogram.shape}")
    return histogram.astype(np.int64)
