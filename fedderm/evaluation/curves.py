"""Curves and decisions from counts alone, of one site or of sites added up: nothing more leaves a site.

Decisions at a bin's edge are exact. Precision and recall, calibration and net benefit (Vickers and Elkin,
"Decision curve analysis", Medical Decision Making 26 (2006), Eq. 1) are those of the scores to within a bin.
ROC curves are ``metrics.roc_of_counts``.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.counts import BIN_CENTRES, BIN_EDGES, Counts, bin_of, check_on_edge
from fedderm.evaluation.documents import ReliabilityBin, Unit
from fedderm.evaluation.metrics import ECE_BINS, ece_bin, reliability_bins, roc_of_counts
from fedderm.evaluation.scores import Floats, Ints


@dataclass(frozen=True)
class Decisions:
    """What a threshold does to the units (images or lesions) counted; rates without a divisor are None."""

    found: int
    """Malignant units called malignant."""
    malignant: int
    alarms: int
    """Benign units called malignant."""
    benign: int

    @property
    def n(self) -> int:
        """All units."""
        return self.malignant + self.benign

    @property
    def referred(self) -> int:
        """Units called malignant, rightly or not."""
        return self.found + self.alarms

    @property
    def sensitivity(self) -> float | None:
        """Found of the malignant."""
        return _rate(self.found, self.malignant)

    @property
    def specificity(self) -> float | None:
        """Left alone of the benign."""
        return _rate(self.benign - self.alarms, self.benign)

    @property
    def ppv(self) -> float | None:
        """Malignant of the referred, at this prevalence."""
        return _rate(self.found, self.referred)

    @property
    def npv(self) -> float | None:
        """Benign of those left alone, at this prevalence."""
        return _rate(self.benign - self.alarms, self.n - self.referred)

    @property
    def referrals_per_1000(self) -> float | None:
        """Referred of 1,000 units like these."""
        return _rate(1000 * self.referred, self.n)

    def net_benefit(self, probability: float) -> float | None:
        """Return ``found / n - alarms / n * p / (1 - p)``, in malignant units found per unit.

        ``probability`` p in [0, 1) is the malignancy at which a referral is just worth its harm; ValueError
        outside.
        """
        if not 0 <= probability < 1:
            raise ValueError(f"net benefit: expected a probability from 0 to below 1, found {probability:g}")
        odds = probability / (1 - probability)
        return (self.found - self.alarms * odds) / self.n if self.n else None


def _rate(hits: float, of: int) -> float | None:
    return hits / of if of else None


def tails(counts: Counts, unit: Unit) -> Ints:
    """Return ``(2, bins + 1)``: benign and malignant units at or above each bin's lower edge.

    Column 0 has all units, the last none.
    """
    histograms = counts.histograms(unit)
    above = np.zeros((2, histograms.shape[1] + 1), np.int64)
    above[:, :-1] = np.cumsum(histograms[:, ::-1], axis=1)[:, ::-1]
    return above


def decisions_at(counts: Counts, unit: Unit, threshold: float) -> Decisions:
    """Return what a threshold on the raw logit does; exact. Raises ValueError where it is not on an edge."""
    check_on_edge(threshold)
    above = tails(counts, unit)
    return _decisions(above, int(bin_of(threshold)))


def _decisions(above: Ints, index: int) -> Decisions:
    (benign, malignant), (alarms, found) = above[:, 0].tolist(), above[:, index].tolist()
    return Decisions(found=found, malignant=malignant, alarms=alarms, benign=benign)


def auc_of_counts(counts: Counts, unit: Unit) -> float | None:
    """Return the AUC, pairs within a bin one half; off by at most ``Counts.auc_error_bound``.

    None where a class is absent.
    """
    roc = roc_of_counts(counts, unit)
    if not roc.false_positive_rate:
        return None
    return float(np.trapezoid(roc.true_positive_rate, roc.false_positive_rate))


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision by recall at every edge that divides the units, recall ascending from the first found."""

    recall: Floats
    precision: Floats
    average_precision: float
    """``sum (R_i - R_{i-1}) P_i``, as scikit-learn's."""


def precision_recall(counts: Counts, unit: Unit) -> PrecisionRecall | None:
    """Return the precision-recall curve; None without a malignant unit."""
    alarms, found = tails(counts, unit)[:, ::-1].astype(np.float64)
    if found[-1] == 0:
        return None
    steps = np.flatnonzero(np.diff(alarms + found) > 0) + 1
    recall, precision = found[steps] / found[-1], found[steps] / (alarms + found)[steps]
    area = float(np.diff(recall, prepend=0.0) @ precision)
    return PrecisionRecall(recall, precision, area)


MOST = 0.999
"""Net benefit at higher probabilities is told at this one: its odds grow without bound."""


def edge_probabilities(calibration: CalibrationMap) -> Floats:
    """Return the calibrated probability at each bin's lower edge, ``(bins,)``; never falling.

    The lowest bin has no lower edge and takes its centre.
    """
    return calibration.probabilities(np.concatenate([BIN_CENTRES[:1], BIN_EDGES]))


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit by threshold probability, in malignant units found per unit; referring none has 0."""

    probability: Floats
    model: Floats
    everyone: Floats
    """Of referring all."""


def decision_curve(
    counts: Counts, unit: Unit, calibration: CalibrationMap, probabilities: ArrayLike
) -> DecisionCurve | None:
    """Return the net benefit of the model and of referring all, at each threshold probability in (0, 1).

    The model refers what lies at or above the first edge with that calibrated probability. None without a
    unit; ValueError for a probability outside.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if np.any((p <= 0) | (p >= 1)):
        raise ValueError("decision curve: threshold probabilities must lie between 0 and 1")
    above, n = tails(counts, unit).astype(np.float64), counts.n(unit)
    if n == 0:
        return None
    alarms, found = above[:, np.searchsorted(edge_probabilities(calibration), p, side="left")]
    odds = p / (1 - p)
    return DecisionCurve(p, (found - alarms * odds) / n, (above[1, 0] - above[0, 0] * odds) / n)


def calibration_curve(
    counts: Counts, unit: Unit, calibration: CalibrationMap, spacing: Literal["width", "mass"]
) -> list[ReliabilityBin]:
    """Return the non-empty bins of a reliability diagram, observed fractions with 95 % Wilson intervals.

    ``width``: ECE_BINS equal parts of [0, 1]. ``mass``: at most as many groups, of about as many units each;
    a bin of the counts is never divided. Every unit has the probability of its bin's centre.
    """
    p = calibration.probabilities(BIN_CENTRES)
    benign, malignant = counts.histograms(unit)
    n = benign + malignant
    if spacing == "width":
        group = ece_bin(p)
    else:
        middle = (np.cumsum(n) - n / 2) / max(int(n.sum()), 1)
        group = np.minimum((middle * ECE_BINS).astype(np.intp), ECE_BINS - 1)
    sums = [np.bincount(group, weights=weight) for weight in (n, n * p, malignant)]
    return reliability_bins(np.stack(sums, axis=1))
