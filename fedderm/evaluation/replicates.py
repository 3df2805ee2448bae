"""Bootstrap replicates that add up over sites: intervals of the pool without a score leaving its site.

Replicate b of the pool is the sum of the sites' replicates b: a bootstrap of lesions stratified by site and
class. A replicate is a pair of coarse histograms, benign and malignant. The threshold in force is one of
their edges, so sensitivity and specificity lose nothing. Pairs within a coarse bin are judged by the pool's
fine histogram, so the AUC loses only how they vary from replicate to replicate.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.calibration_measures import CalibrationTable
from fedderm.evaluation.counts import BIN_CENTRES, BIN_EDGES, UNITS, Counts, snap_down
from fedderm.evaluation.disclosure import suppress_rows
from fedderm.evaluation.documents import Estimate, OperatingPoint, Unit
from fedderm.evaluation.intervals import estimates, lesion_weights
from fedderm.evaluation.metrics import Scheme, f1, metrics_of_counts
from fedderm.evaluation.ranking import average_precision
from fedderm.evaluation.scores import Floats, Ints, Scores

COARSE_BINS: Final = 128

REPLICATES_AT_ONCE: Final = 250
"""Spread over the fine bins at a time: at most 12 MB an array."""

Replicates = NDArray[np.uint32]


def coarse_edges(threshold: float) -> Floats:
    """Return ``(127,)`` ascending edges: 126 fixed ones and ``threshold``, snapped down to a bin edge.

    The fixed ones lie at sinh of equal steps, 0.06 apart around 0 and 1.5 at +-24, and on bin edges of the
    counts.
    """
    wanted = np.sinh(np.linspace(-1, 1, COARSE_BINS - 2) * np.arcsinh(BIN_EDGES[-1]))
    nearest = BIN_EDGES[np.abs(BIN_EDGES[:, None] - wanted).argmin(axis=0)]
    return np.sort(np.append(nearest, snap_down(threshold)))


def replicate_histograms(
    scores: Scores,
    *,
    resamples: int,
    seed: int | np.random.SeedSequence,
    unit: Unit,
    threshold: float,
    min_cell: int = 0,
) -> Replicates:
    """Return ``(resamples, 2, 128)`` numbers of benign and of malignant units by coarse bin.

    Both units see the same draws under one seed; sites must not share a seed. With ``min_cell``, draws are
    made from what ``suppress`` lets leave, so that replicates show no more.
    """
    rows = suppress_rows(scores, unit, min_cell)
    lesions = rows.per_lesion()
    table = _by_lesion(rows, lesions, coarse_edges(threshold))
    rng, found = np.random.default_rng(seed), np.zeros((resamples, 2, COARSE_BINS), np.uint32)
    side, start = lesions.positive, 0
    for weights in lesion_weights(lesions.truth, resamples, rng):
        chunk = slice(start, start + len(weights))
        for index, members in enumerate((~side, side)):
            # Whole numbers below 2^24: single precision is exact, and twice as fast.
            found[chunk, index] = weights[:, members].astype(np.float32) @ table[members]
        start += len(weights)
    return found


def _by_lesion(rows: Scores, lesions: Scores, edges: Floats) -> NDArray[np.float32]:
    bins = np.searchsorted(edges, rows.triage, side="right")
    table = np.zeros((len(lesions), COARSE_BINS), np.float32)
    np.add.at(table, (np.searchsorted(lesions.lesion, rows.lesion), bins), 1)
    return table


def sum_replicates(parts: Iterable[NDArray[np.integer]]) -> Ints:
    """Return the pool's replicates, ``(B, 2, 128)``; ValueError for shapes that differ or no part at all."""
    total: Ints | None = None
    for part in parts:
        if (
            part.ndim != 3
            or part.shape[1:] != (2, COARSE_BINS)
            or (total is not None and part.shape != total.shape)
        ):
            expected = f"(B, 2, {COARSE_BINS})" if total is None else str(total.shape)
            raise ValueError(f"replicates: expected shape {expected}, found {part.shape}")
        total = part.astype(np.int64) if total is None else total + part
    if total is None:
        raise ValueError("replicates: no site sent any")
    return total


def pooled_intervals(
    replicates: NDArray[np.integer], counts: Counts, point: OperatingPoint, unit: Unit, scheme: Scheme
) -> dict[str, Estimate]:
    """Return METRICS of the pool with 95 % intervals from summed replicates.

    Values come from ``counts``. Intervals: AUC, average precision, sensitivity, specificity, both accuracies,
    PPV, F1, referrals, Brier, calibration slope and intercept; macro-F1 in the binary scheme only, for
    replicates do not hold the differential; ECEs none. The replicates must have been made with
    ``point.threshold``, which must be on a bin edge.
    """
    if unit == "lesion" and not same_lesions(replicates, counts):
        raise ValueError(
            "replicates: they hold other numbers of lesions than the counts; a site is missing in one"
        )
    values = metrics_of_counts(counts, unit, point, scheme)
    p = counts.positives("lesion")
    drawn = replicate_metrics(replicates, counts, point, unit)
    if scheme != "binary":
        del drawn["macro_f1"]
    return estimates(values, drawn, positive_lesions=p, benign_lesions=counts.n("lesion") - p)


def same_lesions(replicates: NDArray[np.integer], counts: Counts) -> bool:
    """Return whether every replicate of lesions holds as many malignant and benign ones as the counts."""
    p = counts.positives("lesion")
    totals = replicates.sum(axis=2, dtype=np.int64)
    return bool(np.all(totals == [counts.n("lesion") - p, p]))


def replicate_metrics(
    replicates: NDArray[np.integer], counts: Counts, point: OperatingPoint, unit: Unit
) -> dict[str, Floats]:
    """Return each metric's value in every replicate, ``(B,)``; NaN where a class is absent."""
    edges = coarse_edges(point.threshold)
    negative, positive = np.moveaxis(replicates.astype(np.float64), 1, 0)
    first = int(np.searchsorted(edges, point.threshold, side="right"))
    p, n = positive.sum(axis=1), negative.sum(axis=1)
    tp, fp = positive[:, first:].sum(axis=1), negative[:, first:].sum(axis=1)
    below = np.cumsum(negative, axis=1) - negative * (1 - _won_within(counts, unit, edges))
    errors = _mean_squared_errors(counts, point, unit, edges)
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = tp / p, (n - fp) / n
        f1_malignant, f1_benign = 2 * tp / (tp + fp + p), 2 * (n - fp) / (2 * n - fp + p - tp)
        return {
            "auc": (positive * below).sum(axis=1) / (p * n),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "accuracy": (tp + n - fp) / (p + n),
            "ppv": tp / (tp + fp),
            "f1": f1(tp, tp + fp, p),
            "macro_f1": np.where(
                p == 0, f1_benign, np.where(n == 0, f1_malignant, (f1_benign + f1_malignant) / 2)
            ),
            **_of_fine_cells(replicates, counts, point, unit, edges),
            "brier": (negative @ errors[0] + positive @ errors[1]) / (p + n),
            "referrals_per_1000": 1000 * (tp + fp) / (p + n),
        }


def _of_fine_cells(
    replicates: NDArray[np.integer], counts: Counts, point: OperatingPoint, unit: Unit, edges: Floats
) -> dict[str, Floats]:
    """Average precision, calibration slope and intercept: units of a coarse bin lie as the pool's.

    A class's units of a replicate within a coarse bin are divided among its fine bins in the pool's shares.
    """
    histograms = counts.histograms(unit)
    sides, bins = np.nonzero(histograms)
    coarse = np.searchsorted(edges, BIN_CENTRES[bins], side="right")
    held = np.zeros((2, COARSE_BINS))
    np.add.at(held, (sides, coarse), histograms[sides, bins])
    share = histograms[sides, bins] / held[sides, coarse]
    positive, centres = sides > 0, BIN_CENTRES[bins]
    table = CalibrationTable.of(CalibrationMap.of(point).logits(centres), positive)
    found: dict[str, list[Floats]] = {
        "average_precision": [],
        "calibration_slope": [],
        "calibration_intercept": [],
    }
    for part in np.array_split(replicates, max(1, len(replicates) // REPLICATES_AT_ONCE)):
        weights = part[:, sides, coarse] * share
        ranked = (centres[positive], centres[~positive], weights[:, positive], weights[:, ~positive])
        values = {"average_precision": average_precision(*ranked), **table.measures(weights)}
        for name, chunks in found.items():
            chunks.append(values[name])
    return {name: np.concatenate(chunks) for name, chunks in found.items()}


def _won_within(counts: Counts, unit: Unit, edges: Floats) -> Floats:
    """``(128,)`` chance that the malignant unit of a pair within a coarse bin has the higher logit.

    From the pool's fine histogram; one half, as for ties, in bins without such a pair.
    """
    negative, positive = counts.histograms(unit).astype(np.float64)
    coarse = np.searchsorted(edges, BIN_CENTRES, side="right")
    p, n = (np.bincount(coarse, side, COARSE_BINS) for side in (positive, negative))
    below = np.cumsum(negative) - negative / 2 - (np.cumsum(n) - n)[coarse]
    won = np.bincount(coarse, positive * below, COARSE_BINS)
    return np.asarray(np.divide(won, p * n, out=np.full(COARSE_BINS, 0.5), where=p * n > 0))


def _mean_squared_errors(counts: Counts, point: OperatingPoint, unit: Unit, edges: Floats) -> Floats:
    """``(2, 128)`` mean squared errors by class and coarse bin, from the fine histogram within."""
    p = CalibrationMap.of(point).probabilities(BIN_CENTRES)
    coarse = np.searchsorted(edges, BIN_CENTRES, side="right")
    found = np.zeros((2, COARSE_BINS))
    for side, histogram in enumerate(counts.histograms(unit)):
        mass = np.bincount(coarse, histogram, COARSE_BINS)
        error = np.bincount(coarse, histogram * (p - side) ** 2, COARSE_BINS)
        found[side] = np.divide(error, mass, out=np.zeros(COARSE_BINS), where=mass > 0)
    return found


def site_replicates(
    scores: Scores, *, resamples: int, seed: np.random.SeedSequence, threshold: float, min_cell: int = 0
) -> dict[Unit, Replicates]:
    """Return a site's replicates of its test split; see ``replicate_histograms``.

    Of lesions only where the site keeps small cells to itself: whoever knows the draws can solve replicates
    of images for each lesion's own images. Those of lesions tell no more than the merged counts.
    """
    units: tuple[Unit, ...] = UNITS if min_cell <= 1 else ("lesion",)
    return {
        unit: replicate_histograms(
            scores, resamples=resamples, seed=seed, unit=unit, threshold=threshold, min_cell=min_cell
        )
        for unit in units
    }
