"""What training sites say about themselves so that another site can tell whether it is like them.

From each training site's calibration split: its score histograms (``Counts``) and, by class, sums and sums of
squares of the trunk's pooled features over lesions. The server turns them into class means, a scale and one
*departure* a site: how far the site's mean lies from what its classes would have it. Departures are what
"sites differ among themselves" means in ``shift.py``; they travel without names and without labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedderm.evaluation.counts import BIN_CENTRES, BINS, Counts
from fedderm.evaluation.replicates import COARSE_BINS, coarse_edges
from fedderm.evaluation.scores import Floats, Ints
from sites.diagnoses import CLASSES

Summary = Mapping[str, NDArray[np.generic]]

EDGES: Final = coarse_edges(0.0)
"""``(127,)`` of the histograms that travel."""

FEWEST_OF_CLASS: Final = 10
"""Lesions, over all sites, from which a class has a mean of its own (a choice)."""

FEWEST_SUMMED: Final = 5
"""Lesions of a class whose sums leave a site: two can be solved for from sums and sums of squares."""

FEWEST_AT_SITE: Final = 8
"""Lesions of a training site from which it has a departure (a choice)."""

_SMALLEST_SCALE: Final = 0.05  # of the root mean square: a feature that is always off must not divide by 0


def feature_summary(
    features: ArrayLike, truth: ArrayLike, lesion: ArrayLike, min_cell: int = 0
) -> dict[str, NDArray[np.generic]]:
    """Return what a site sends of its features: ``number`` (4,), ``sum`` and ``squares`` (4, D), by class.

    ``features`` (N, D) and ``truth`` (N,) are of images, averaged within each ``lesion`` (N,) first. A class
    of fewer than ``min_cell`` lesions, or of fewer than five, whose own features the sums would nearly tell,
    is left out: its rows are 0. Summaries of disjoint sets of lesions add up. Raises ValueError for lengths
    that differ, for values that are not finite, and for a lesion of two classes.
    """
    rows, ids = lesion_means(features, lesion)
    labels = np.asarray(truth)
    if labels.shape != np.shape(lesion):
        raise ValueError(f"feature summary: {labels.shape} truths for {np.shape(lesion)} images")
    names, first, owner = np.unique(np.asarray(lesion, dtype=np.str_), return_index=True, return_inverse=True)
    if np.any(labels != labels[first][owner]):
        mixed = ids[owner[labels != labels[first][owner]][0]]
        raise ValueError(f"feature summary: lesion {str(mixed)!r} carries images of different classes")
    member = labels[first][:, None] == np.arange(len(CLASSES))
    number = member.sum(axis=0) if len(names) else np.zeros(len(CLASSES), np.int64)
    shown = member * (number >= max(min_cell, FEWEST_SUMMED))
    return {
        "number": shown.sum(axis=0).astype(np.int64),
        "sum": shown.T.astype(np.float64) @ rows,
        "squares": shown.T.astype(np.float64) @ rows**2,
    }


def lesion_means(features: ArrayLike, lesion: ArrayLike) -> tuple[Floats, NDArray[np.str_]]:
    """Return the mean features of each lesion, ``(L, D)``, and the lesions' ids, sorted."""
    values, ids = np.asarray(features, dtype=np.float64), np.asarray(lesion, dtype=np.str_)
    if values.ndim != 2 or ids.shape != values.shape[:1]:
        raise ValueError(f"features: expected (N, D) and N lesion ids, found {values.shape} and {ids.shape}")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"features: {np.count_nonzero(~np.isfinite(values))} values are NaN or infinite")
    names, owner, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    means = np.zeros((len(names), values.shape[1]))
    np.add.at(means, owner, values)
    return means / np.maximum(sizes, 1)[:, None], names


@dataclass(frozen=True, eq=False)
class Block:
    """Class means and departures of training sites in D quantities, in units of ``scale``."""

    means: Floats
    """``(4, D)`` class means; 0 for a class that no site has."""
    numbers: Ints
    """``(4,)`` lesions behind the means."""
    scale: Floats
    """``(D,)`` standard deviation within classes."""
    departures: Floats
    """``(K, D)`` each site's mean less the means of its classes, over ``scale``."""
    lesions: Ints
    """``(K,)`` lesions behind each departure."""

    def directions(self) -> Floats:
        """Return ``(D, r)`` an orthonormal basis of the differences between class means, in ``scale``.

        A change of case mix moves a site's mean along these and along nothing else.
        """
        malignant = self.numbers[1:]
        if self.numbers[0] == 0 or malignant.sum() == 0 or not len(self.scale):
            return np.empty((len(self.scale), 0))
        pooled = malignant @ self.means[1:] / malignant.sum()
        own = [mean for mean, n in zip(self.means[1:], malignant, strict=True) if n >= FEWEST_OF_CLASS]
        differences = (np.stack([pooled, *own]) - self.means[0]) / self.scale
        left, values, _ = np.linalg.svd(differences.T, full_matrices=False)
        return np.asarray(left[:, values > 1e-8 * max(values[0], 1e-300)])


def block_of(number: Ints, total: Floats, squares: Floats) -> Block:
    """Return the block of K sites: ``number`` (K, 4), ``total`` and ``squares`` (K, 4, D).

    A class's mean is that of its lesions at all sites.
    """
    lesions = number.sum(axis=0)
    means = total.sum(axis=0) / np.maximum(lesions, 1)[:, None]
    # Within class and site: differences between sites must not widen the scale that they are judged by.
    within = squares - total**2 / np.maximum(number, 1)[:, :, None]
    freedom = max(1, int(np.maximum(number - 1, 0).sum()))
    variance = np.maximum(within.sum(axis=(0, 1)), 0.0) / freedom
    smallest = _SMALLEST_SCALE * np.sqrt(variance.mean()) if variance.any() else 1.0
    scale = np.maximum(np.sqrt(variance), smallest)
    sizes = number.sum(axis=1)
    kept = sizes >= FEWEST_AT_SITE
    expected = np.einsum("kc,cd->kd", number, means)
    departures = (total.sum(axis=1) - expected)[kept] / sizes[kept, None] / scale
    return Block(means, lesions, scale, departures, sizes[kept])


@dataclass(frozen=True, eq=False)
class ShiftReference:
    """What a site needs to know of the training sites, without their names."""

    features: Block
    histograms: Ints
    """``(K, 4, 128)`` lesions of each training site by class and bin of the triage logit (``EDGES``)."""

    @property
    def prevalence(self) -> float:
        """Return the malignant fraction of the training sites' calibration lesions, 0 without any."""
        classes = self.histograms.sum(axis=(0, 2))
        return float(classes[1:].sum() / max(1, classes.sum()))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return named arrays for a message: at D = 1,280, 26 KB and another 7 KB a training site."""
        block = self.features
        return {
            "shift-means": block.means.astype(np.float32),
            "shift-numbers": block.numbers.astype(np.int32),
            "shift-scale": block.scale.astype(np.float32),
            "shift-departures": block.departures.astype(np.float32),
            "shift-lesions": block.lesions.astype(np.int32),
            "shift-histograms": self.histograms.astype(np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Return the reference that ``to_arrays`` wrote; ValueError for what is missing or misshapen."""
        names = ("means", "numbers", "scale", "departures", "lesions", "histograms")
        missing = [f"shift-{name}" for name in names if f"shift-{name}" not in arrays]
        if missing:
            raise ValueError(f"shift reference: {', '.join(missing)} missing, found {', '.join(arrays)}")
        means, numbers, scale, departures, lesions, histograms = (
            np.asarray(arrays[f"shift-{name}"]) for name in names
        )
        width, sites = len(scale), len(lesions)
        expected = {
            "means": (means.shape, (len(CLASSES), width)),
            "numbers": (numbers.shape, (len(CLASSES),)),
            "departures": (departures.shape, (sites, width)),
            "histograms": (histograms.shape[1:], (len(CLASSES), COARSE_BINS)),
        }
        for name, (found, wanted) in expected.items():
            if found != wanted:
                raise ValueError(f"shift reference: shift-{name} must have shape {wanted}, found {found}")
        block = Block(
            means.astype(np.float64),
            numbers.astype(np.int64),
            scale.astype(np.float64),
            departures.astype(np.float64),
            lesions.astype(np.int64),
        )
        if not all(np.all(np.isfinite(a)) for a in (block.means, block.scale, block.departures)):
            raise ValueError("shift reference: a value is NaN or infinite")
        if np.any(block.scale <= 0) or np.any(block.lesions <= 0):
            raise ValueError("shift reference: scales and numbers of lesions must be positive")
        return cls(block, histograms.astype(np.int64))


def reference_of(
    counts_by_site: Mapping[str, Counts], summaries_by_site: Mapping[str, Summary]
) -> ShiftReference:
    """Return the reference from training sites' calibration counts and ``feature_summary`` dictionaries.

    Sites are taken in the order of their names. Raises ValueError where nobody sent anything, or where
    summaries differ in width.
    """
    if not counts_by_site or not summaries_by_site:
        raise ValueError("shift reference: no training site sent counts and feature summaries")
    summaries = [summaries_by_site[name] for name in sorted(summaries_by_site)]
    widths = {np.asarray(one["sum"]).shape for one in summaries}
    if len(widths) != 1:
        raise ValueError(f"shift reference: summaries of one shape (4, D) are needed, found {sorted(widths)}")
    stacked = [
        np.stack([np.asarray(one[name], np.float64) for one in summaries])
        for name in ("number", "sum", "squares")
    ]
    histograms = np.stack([coarse_histograms(counts_by_site[name]) for name in sorted(counts_by_site)])
    block = block_of(stacked[0].astype(np.int64), stacked[1], stacked[2])
    # In the order of their own values: the place of a row must not tell whose it is.
    place = np.lexsort((block.departures.sum(axis=1), block.lesions))
    block = replace(block, departures=block.departures[place], lesions=block.lesions[place])
    return ShiftReference(block, np.array(sorted(histograms.tolist()), dtype=histograms.dtype))


def coarse_histograms(counts: Counts) -> Ints:
    """Return ``(4, 128)`` lesions by class and coarse bin."""
    fine = counts.of("lesion").sum(axis=1)
    table = np.zeros((BINS, COARSE_BINS), np.int64)
    table[np.arange(BINS), np.searchsorted(EDGES, BIN_CENTRES, side="right")] = 1
    return np.asarray(fine @ table)
