"""The federation's operating point, a site's own, and what the federation's gives on the pool."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedderm.evaluation.calibration import IDENTITY, CalibrationMap, choose_calibration
from fedderm.evaluation.counts import UNITS, Counts, snap_down
from fedderm.evaluation.documents import (
    WITH_PRIOR,
    Certificate,
    FederationEvaluation,
    OperatingPoint,
    Performance,
    Unit,
)
from fedderm.evaluation.intervals import estimates
from fedderm.evaluation.metrics import (
    Scheme,
    absent_classes,
    confusion_matrix,
    metrics_of_counts,
    roc_of_counts,
)
from fedderm.evaluation.replicates import pooled_intervals, same_lesions
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.thresholds import certified_threshold, federation_threshold


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What an experiment asks of its evaluation."""

    target_sensitivity: float
    confidence: float
    """Of a certified threshold."""
    bootstrap: int
    """Resamples; 0 gives values without intervals."""
    seed: int
    scheme: Scheme
    min_cell: int = 0
    """The site's own policy: counts below it stay out of the document."""
    target_npv: float = 0.98
    """Of the threshold offered for it."""
    max_referral: float = 0.5
    """Fraction of lesions that the threshold offered for it may refer."""


def site_seed(seed: int, site: str, purpose: str) -> np.random.SeedSequence:
    """Return a seed of a site's own: the draws of two sites, or for two purposes, are independent."""
    digest = hashlib.sha256(f"{site}\0{purpose}".encode()).digest()
    return np.random.SeedSequence([seed, *np.frombuffer(digest, dtype="<u4").tolist()])


def federation_point(
    counts: Counts, target: float, confidence: float, seed: int = 0, *, floor: Counts | None = None
) -> tuple[OperatingPoint, Certificate]:
    """Return the federation's operating point from the summed calibration counts of the training sites.

    ``floor``: the same where minimum cell sizes merge them (``disclosure``); the threshold is certified on
    it. It is on a bin edge. Its certificate speaks of lesions like the pooled calibration lesions; a
    held-out site's are not, which is why sites recalibrate.
    """
    choice = choose_calibration(counts, IDENTITY, seed)
    threshold, certificate = federation_threshold(floor or counts, target, confidence)
    source = "The pooled calibration splits of the training sites."
    origin = f"{source} {certificate.sentence} Probabilities: {choice.sentence}."
    n, p = counts.n("lesion"), counts.positives("lesion")
    # 0 or 1 is what minimum cell sizes leave of a class, not a prevalence to correct towards.
    prevalence = p / n if 0 < p < n else None
    return operating_point(choice.map, threshold, origin, prevalence), certificate


def site_point(
    calibration: Scores | None, federation: OperatingPoint, settings: EvaluationSettings
) -> tuple[OperatingPoint, Certificate]:
    """Return a site's operating point from its calibration split, and the certificate of its threshold.

    The threshold is certified on the malignant lesions and lies on a bin edge at or below the order
    statistic. Where it cannot be certified the federation's stays; so does the calibration map where lesions
    are too few.
    """
    lesions = (calibration or Scores.empty()).per_lesion()
    in_force = CalibrationMap.of(federation)
    choice = choose_calibration(
        lesions,
        in_force,
        settings.seed,
        reference_prevalence=federation.prevalence,
        min_cell=settings.min_cell,
    )
    threshold, certificate = certified_threshold(
        lesions.triage[lesions.positive], settings.target_sensitivity, settings.confidence
    )
    source = (
        "The site's own calibration split." if threshold is not None else "The federation's threshold stays."
    )
    origin = f"{source} {certificate.sentence} Probabilities: {choice.sentence}."
    kept = federation.threshold if threshold is None else snap_down(threshold)
    prevalence = federation.prevalence if choice.map == in_force else prevalence_of(lesions)
    return operating_point(choice.map, kept, origin, prevalence), certificate


def prevalence_of(lesions: Scores) -> float | None:
    """Return the malignant fraction of lesion rows; None without any."""
    return float(lesions.positive.mean()) if len(lesions) else None


def operating_point(
    calibration: CalibrationMap, threshold: float, origin: str, prevalence: float | None = None
) -> OperatingPoint:
    """Return an operating point with its threshold as a calibrated probability, too."""
    return OperatingPoint(
        **calibration.fields(),
        prevalence=prevalence,
        threshold=threshold,
        threshold_probability=float(calibration.probabilities(np.array(threshold))),
        origin=origin,
    )


def evaluate_federation(
    counts_by_role: Mapping[str, Counts],
    replicates_by_role: Mapping[str, Mapping[Unit, NDArray[np.integer]]],
    point: OperatingPoint,
    certificate: Certificate,
    scheme: Scheme,
) -> FederationEvaluation:
    """Return what the federation's operating point gives on the pooled test splits of each role (or
    WITH_PRIOR).

    ``counts_by_role``: summed test counts; ``replicates_by_role``: summed replicates made with the point's
    threshold; a role or unit missing there gets values without intervals. ROC curves are of lesions.
    """
    pooled: dict[str, dict[Unit, Performance]] = {}
    for role, counts in counts_by_role.items():
        replicates = replicates_by_role.get(role, {})
        if "lesion" in replicates and not same_lesions(replicates["lesion"], counts):
            replicates = {}
        found = {
            unit: performance_of_counts(counts, unit, point, scheme, replicates.get(unit)) for unit in UNITS
        }
        # A threshold on scores says nothing about scores that each site has shifted.
        pooled[role] = _auc_only(found) if role == WITH_PRIOR else found
    return FederationEvaluation(
        operating_point=point,
        certificate=certificate,
        pooled=pooled,
        roc={role: roc_of_counts(counts, "lesion") for role, counts in counts_by_role.items()},
    )


def _auc_only(performances: Mapping[Unit, Performance]) -> dict[Unit, Performance]:
    """Return the performances without what depends on a threshold or a calibration."""
    return {
        unit: one.model_copy(update={"metrics": {"auc": one.metrics["auc"]}, "confusion": []})
        for unit, one in performances.items()
    }


def performance_of_counts(
    counts: Counts,
    unit: Unit,
    point: OperatingPoint,
    scheme: Scheme,
    replicates: NDArray[np.integer] | None = None,
) -> Performance:
    """Return what counts say at an operating point; without replicates, values without intervals."""
    if replicates is None or len(replicates) == 0:
        values = metrics_of_counts(counts, unit, point, scheme)
        metrics = estimates(values, {}, positive_lesions=0, benign_lesions=0)
    else:
        metrics = pooled_intervals(replicates, counts, point, unit, scheme)
    scores, weights = counts.weighted(unit)
    confusion = confusion_matrix(scores, point, scheme, weights)
    return Performance(
        unit=unit,
        n=counts.n(unit),
        positives=counts.positives(unit),
        metrics=metrics,
        confusion=confusion,
        absent_classes=absent_classes(confusion, scheme),
    )
