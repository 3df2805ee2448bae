"""Score histograms that add up over sites: all that leaves a site for metrics of the pool.

An average of per-site metrics is not the metric of the pool; a histogram of the pool is the sum of the sites'
histograms. Bins of the triage logit are fixed and shared, so sites need not agree on anything first.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedderm.evaluation.documents import Unit
from fedderm.evaluation.scores import Floats, Ints, Scores
from sites.diagnoses import CLASSES

UNITS: Final[tuple[Unit, Unit]] = ("image", "lesion")
"""The first axis of Counts."""


def _bin_edges() -> Floats:
    centre = np.arange(-1024, 1025) / 256
    middle = 4 + np.arange(1, 257) / 64
    outer = 8 + np.arange(1, 257) / 16
    return np.concatenate([-outer[::-1], -middle[::-1], centre, middle, outer])


BIN_EDGES: Final = _bin_edges()
"""``(3073,)`` ascending. Width 1/256 up to a logit of 4, 1/64 up to 8, 1/16 up to 24; multiples of a power of
two, and so exact in every float format. Below the first and from the last edge on, bins are open: 3,074 bins
in all."""

BINS: Final = len(BIN_EDGES) + 1

BIN_CENTRES: Final[Floats] = np.concatenate(
    [[BIN_EDGES[0] - 1 / 32], (BIN_EDGES[:-1] + BIN_EDGES[1:]) / 2, [BIN_EDGES[-1] + 1 / 32]]
)
"""``(3074,)`` the logit that stands for each bin."""

EVERYTHING: Final = float(np.finfo(np.float64).min)
"""The threshold that calls everything malignant. Finite, because JSON has no infinity."""

SHAPE: Final = (len(UNITS), len(CLASSES), len(CLASSES) - 1, BINS)


def bin_of(logits: ArrayLike) -> NDArray[np.intp]:
    """Return the bin of each logit; bin ``i`` is ``[edge i-1, edge i)``."""
    return np.searchsorted(BIN_EDGES, np.asarray(logits, dtype=np.float64), side="right")


def lower_edge(bin_index: int) -> float:
    """Return the lower edge of a bin; EVERYTHING for the open lowest bin."""
    return EVERYTHING if bin_index == 0 else float(BIN_EDGES[bin_index - 1])


def snap_down(threshold: float) -> float:
    """Return the highest bin edge not above ``threshold``: it calls malignant whatever ``threshold`` does."""
    return lower_edge(int(bin_of(threshold)))


def check_on_edge(threshold: float) -> None:
    """Raise ValueError unless counts can be divided at ``threshold`` exactly."""
    if snap_down(threshold) != threshold:
        raise ValueError(
            f"counts: the threshold {threshold!r} is not on a bin edge; "
            f"the nearest below is {snap_down(threshold)!r}"
        )


@dataclass(frozen=True, eq=False)
class Counts:
    """``(unit, truth, differential, bin)`` = ``(2, 4, 3, 3074)`` numbers of images and of lesions.

    A commutative monoid: ``a + b`` counts the union of two disjoint sets of lesions, ``Counts.zero()`` the
    empty set.
    """

    cells: Ints

    def __post_init__(self) -> None:
        cells = np.asarray(self.cells)
        if cells.shape != SHAPE:
            raise ValueError(f"counts: expected an array of shape {SHAPE}, found {cells.shape}")
        if not np.issubdtype(cells.dtype, np.integer):
            raise ValueError(f"counts: expected integers, found {cells.dtype}")
        if cells.size and int(cells.min()) < 0:
            raise ValueError(f"counts: {int(np.count_nonzero(cells < 0))} cells are negative")
        object.__setattr__(self, "cells", cells.astype(np.int64))

    @classmethod
    def zero(cls) -> "Counts":
        """Return the counts of nothing."""
        return cls(np.zeros(SHAPE, np.int64))

    @classmethod
    def from_array(cls, array: NDArray[np.generic]) -> "Counts":
        """Return the counts that ``to_array`` wrote; ValueError for a wrong shape, dtype or negative cell."""
        return cls(np.asarray(array))

    def to_array(self) -> NDArray[np.int32]:
        """Return the cells as int32, which halves what travels; ValueError where a cell is larger."""
        if self.cells.max() > np.iinfo(np.int32).max:
            raise ValueError("counts: a cell exceeds what a 32-bit integer holds")
        return self.cells.astype(np.int32)

    def __add__(self, other: "Counts") -> "Counts":
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(self.cells + other.cells)

    def of(self, unit: Unit) -> Ints:
        """Return the cells of one unit, ``(4, 3, bins)``."""
        return np.asarray(self.cells[UNITS.index(unit)])

    def classes(self, unit: Unit) -> Ints:
        """Return how many units each true class has, ``(4,)``."""
        return np.asarray(self.of(unit).sum(axis=(1, 2)))

    def n(self, unit: Unit) -> int:
        """Return the number of units."""
        return int(self.of(unit).sum())

    def positives(self, unit: Unit) -> int:
        """Return the number of malignant units."""
        return int(self.of(unit)[1:].sum())

    def histograms(self, unit: Unit) -> Ints:
        """Return ``(2, bins)``: benign and malignant units by bin."""
        by_truth = self.of(unit).sum(axis=1)
        return np.stack([by_truth[0], by_truth[1:].sum(axis=0)])

    def weighted(self, unit: Unit) -> tuple[Scores, Floats]:
        """Return the non-empty cells as scores at their bins' centres, with the number of units in each.

        Decisions at a threshold on a bin edge are exact on these scores; probabilities are those of the
        centres.
        """
        cells = self.of(unit)
        truth, differential, bins = np.nonzero(cells)
        names = np.char.add("cell ", np.arange(len(bins)).astype(np.str_))
        scores = Scores(BIN_CENTRES[bins], differential + 1, truth, names)
        return scores, cells[truth, differential, bins].astype(np.float64)

    def auc_error_bound(self, unit: Unit) -> float | None:
        """Return how far the AUC from these counts can be from the exact one: half the tied mass.

        ``sum_b P_b N_b / (2 P N)``: only pairs within one bin are undecided, each counts one half where the
        exact AUC counts 0, 1/2 or 1. None where a class is absent.
        """
        negative, positive = self.histograms(unit).astype(np.float64)
        pairs = negative.sum() * positive.sum()
        return float(negative @ positive / pairs / 2) if pairs else None


def counts_of(scores: Scores) -> Counts:
    """Return the counts of one split of one site; image rows, and one row per lesion."""
    return Counts(np.stack([_histogram(scores), _histogram(scores.per_lesion())]))


def _histogram(scores: Scores) -> Ints:
    shape = SHAPE[1:]
    flat = np.ravel_multi_index((scores.truth, scores.differential - 1, bin_of(scores.triage)), shape)
    return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(np.int64)
