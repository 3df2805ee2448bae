"""Metrics at an operating point, from scores or from counts, by one and the same code.

Most metrics are functions of sums over rows, so ``row_statistics`` gives one vector a row and ``summarise``
turns a (weighted) sum of them into metrics: a split, a histogram and a bootstrap replicate alike. Those of
ranking are in ``ranking``, the other ones of calibration in ``calibration_measures``.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.calibration_measures import CalibrationTable
from fedderm.evaluation.counts import Counts, check_on_edge
from fedderm.evaluation.documents import OperatingPoint, ReliabilityBin, Roc, Unit
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.ranking import auc as auc
from fedderm.evaluation.ranking import weighted_ranking
from fedderm.evaluation.scores import Floats, Scores
from sites.diagnoses import CLASSES

Scheme = Literal["binary", "four_class", "cascade"]

METRICS: Final = (
    "auc",
    "average_precision",
    "sensitivity",
    "specificity",
    "balanced_accuracy",
    "accuracy",
    "ppv",
    "f1",
    "macro_f1",
    "ece",
    "ece_mass",
    "brier",
    "calibration_slope",
    "calibration_intercept",
    "referrals_per_1000",
)

ECE_BINS: Final = 15
"""Equal-width bins of P(malignant), as in Guo et al. 2017."""


def class_names(scheme: Scheme) -> tuple[str, ...]:
    """Return the classes of a scheme's confusion matrix, in order."""
    return ("benign", "malignant") if scheme == "binary" else CLASSES


def decisions(scores: Scores, point: OperatingPoint, scheme: Scheme) -> NDArray[np.int64]:
    """Return each row's decided class, ``(N,)``: benign below the threshold, else malignant or its class."""
    malignant = np.ones_like(scores.differential) if scheme == "binary" else scores.differential
    return np.where(scores.triage >= point.threshold, malignant, 0)


def row_statistics(scores: Scores, point: OperatingPoint, scheme: Scheme) -> Floats:
    """Return ``(N, K*K + 46)``: confusion cell one-hot, (1, p, y) in the row's ECE bin, squared error.

    K is 2 in the binary scheme and 4 in the others.
    """
    k, n = len(class_names(scheme)), len(scores)
    truth = scores.positive.astype(np.int64) if scheme == "binary" else scores.truth
    p, y = CalibrationMap.of(point).probabilities(scores.triage), scores.positive.astype(np.float64)
    rows, cell = np.arange(n), truth * k + decisions(scores, point, scheme)
    found = np.zeros((n, k * k + 3 * ECE_BINS + 1))
    found[rows, cell] = 1
    first = k * k + 3 * ece_bin(p)
    found[rows, first], found[rows, first + 1], found[rows, first + 2] = 1, p, y
    found[:, -1] = (p - y) ** 2
    return found


def ece_bin(p: Floats) -> NDArray[np.intp]:
    """Return the equal-width bin of each probability; 1.0 belongs to the last."""
    return np.minimum((p * ECE_BINS).astype(np.intp), ECE_BINS - 1)


def confusion_of(statistics: Floats, scheme: Scheme) -> Floats:
    """Return ``(..., K, K)`` confusion matrices (rows true, columns decided) from summed row statistics."""
    k = len(class_names(scheme))
    return statistics[..., : k * k].reshape(*statistics.shape[:-1], k, k)


def summarise(statistics: Floats, scheme: Scheme) -> dict[str, Floats]:
    """Return the metrics that are functions of sums, each ``(...)``, from summed row statistics ``(..., S)``.

    NaN where undefined. Accuracy, PPV (precision) and F1 are of malignant against benign, F1 = 2 TP / (2 TP +
    FP + FN); like PPV they follow the prevalence. Macro-F1 is the mean over the classes present in truth, the
    ECE is ``sum_b |sum p - sum y| / n``.
    """
    k = len(class_names(scheme))
    confusion, n = confusion_of(statistics, scheme), statistics[..., : k * k].sum(axis=-1)
    bins = statistics[..., k * k : -1].reshape(*statistics.shape[:-1], ECE_BINS, 3)
    benign, malignant = confusion[..., 0, :].sum(axis=-1), confusion[..., 1:, :].sum(axis=(-1, -2))
    referred = confusion[..., 1:].sum(axis=(-1, -2))
    hits = confusion[..., 1:, 1:].sum(axis=(-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = hits / malignant
        specificity = confusion[..., 0, 0] / benign
        return {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "accuracy": (hits + confusion[..., 0, 0]) / n,
            "ppv": hits / referred,
            "f1": f1(hits, referred, malignant),
            "macro_f1": macro_f1(confusion),
            "ece": np.abs(bins[..., 1] - bins[..., 2]).sum(axis=-1) / n,
            "brier": statistics[..., -1] / n,
            "referrals_per_1000": 1000 * referred / n,
        }


def f1(hits: Floats, called: Floats, present: Floats) -> Floats:
    """Return the F1 of a class from units found, called so and truly so; NaN where none is truly so."""
    with np.errstate(invalid="ignore"):
        return np.where(present > 0, 2 * hits / (called + present), np.nan)


def macro_f1(confusion: Floats) -> Floats:
    """Return the mean F1 ``(...)`` over classes present in truth, of confusion matrices ``(..., K, K)``."""
    row, column = confusion.sum(axis=-1), confusion.sum(axis=-2)
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    present = row > 0
    f1 = np.divide(2 * hit, row + column, out=np.zeros_like(hit), where=present)
    return np.asarray(np.where(present, f1, 0.0).sum(axis=-1) / present.sum(axis=-1))


def calibration_table(scores: Scores, point: OperatingPoint) -> CalibrationTable:
    """Return the rows as the measures of calibration need them."""
    return CalibrationTable.of(CalibrationMap.of(point).logits(scores.triage), scores.positive)


def metrics_of(
    scores: Scores, point: OperatingPoint, scheme: Scheme, weights: Floats | None = None
) -> dict[str, float | None]:
    """Return METRICS of images, or of lesions after ``per_lesion``; None where a class needed is absent.

    The calibration slope is None where a threshold separates the classes, too.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    summary = summarise(weights @ row_statistics(scores, point, scheme), scheme)
    measures = calibration_table(scores, point).measures(weights[None])
    values = weighted_ranking(scores, weights)
    values |= {name: value.item() for name, value in {**summary, **measures}.items()}
    return {name: values[name] if np.isfinite(values[name]) else None for name in METRICS}


def metrics_of_counts(
    counts: Counts, unit: Unit, point: OperatingPoint, scheme: Scheme
) -> dict[str, float | None]:
    """Return METRICS from counts. Raises ValueError where the threshold is not on a bin edge.

    What is counted at the threshold (sensitivity to macro-F1, referrals) is exact; the AUC is so within
    ``auc_error_bound``; the others take each unit at its bin's centre.
    """
    check_on_edge(point.threshold)
    scores, weights = counts.weighted(unit)
    return metrics_of(scores, point, scheme, weights)


def confusion_matrix(
    scores: Scores, point: OperatingPoint, scheme: Scheme, weights: Floats | None = None
) -> list[list[int]]:
    """Return the confusion matrix: rows are true classes, columns decisions."""
    weights = np.ones(len(scores)) if weights is None else weights
    matrix = confusion_of(weights @ row_statistics(scores, point, scheme), scheme)
    return [[round(cell) for cell in row] for row in matrix.tolist()]


def absent_classes(confusion: list[list[int]], scheme: Scheme) -> list[str]:
    """Return the classes of the scheme without a single true unit."""
    return [name for name, row in zip(class_names(scheme), confusion, strict=True) if sum(row) == 0]


def roc_of(scores: Scores, weights: Floats | None = None) -> Roc:
    """Return the empirical ROC curve without its collinear points; empty where a class is absent."""
    if len(np.unique(scores.positive)) < 2:
        return Roc(false_positive_rate=[], true_positive_rate=[])
    false_rate, true_rate, _ = roc_curve(scores.positive, scores.triage, sample_weight=weights)
    return Roc(false_positive_rate=false_rate.tolist(), true_positive_rate=true_rate.tolist())


def roc_of_counts(counts: Counts, unit: Unit) -> Roc:
    """Return the ROC curve through the bin edges."""
    return roc_of(*counts.weighted(unit))


def reliability(scores: Scores, point: OperatingPoint, weights: Floats | None = None) -> list[ReliabilityBin]:
    """Return the non-empty bins of a reliability diagram, observed fractions with 95 % Wilson intervals."""
    weights = np.ones(len(scores)) if weights is None else weights
    statistics = weights @ row_statistics(scores, point, "binary")
    return reliability_bins(statistics[4:-1].reshape(ECE_BINS, 3))


def reliability_bins(sums: Floats) -> list[ReliabilityBin]:
    """Return the non-empty bins of ``(B, 3)`` sums: units, their probabilities, malignant units."""
    found = []
    for n, predicted, observed in sums.tolist():
        if n > 0:
            lower, upper = wilson(observed, n)
            found.append(
                ReliabilityBin(
                    predicted=predicted / n, observed=observed / n, lower=lower, upper=upper, n=round(n)
                )
            )
    return found
