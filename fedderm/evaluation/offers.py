"""Every way to set a site's threshold, side by side: what it promises and what it costs.

Thresholds come from the calibration split, costs from the test split; both count lesions. The costs'
intervals are Wilson's, 95 %.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedderm.evaluation.counts import snap_down
from fedderm.evaluation.documents import Estimate, OperatingPoint, ThresholdOffer
from fedderm.evaluation.informed import FederationEvidence, informed_threshold
from fedderm.evaluation.predictive_values import npv_threshold, referral_threshold
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.scores import Floats, Scores
from fedderm.evaluation.thresholds import certified_threshold

Method = Literal["federation", "site", "informed", "npv", "referral"]

ASSUMPTIONS: Final[dict[Method, str]] = {
    "federation": (
        "Chosen for the pooled lesions of the training sites; another device or other patients change what "
        "it gives here."
    ),
    "site": (
        "New malignant lesions score like the calibration split's, whatever the prevalence; another device "
        "breaks it, and so do a few patients with many lesions each."
    ),
    "informed": (
        "This site is like a random draw from the same clinics as the training sites, whose thresholds "
        "scatter normally; a device unlike theirs, or a site the model has learnt nothing of, breaks it "
        "unless the site's own lesions show the contradiction."
    ),
    "npv": (
        "New lesions score like the calibration split's and have its prevalence; a higher prevalence or "
        "another device breaks it. At a low prevalence it allows many missed melanomas: read it with the "
        "sensitivity."
    ),
    "referral": (
        "New lesions, whatever their diagnosis, score like the calibration split's; a higher prevalence or "
        "another device breaks it. It limits the workload and promises no sensitivity."
    ),
}


def threshold_offers(
    calibration: Scores,
    test: Scores,
    federation_point: OperatingPoint,
    evidence: FederationEvidence | None,
    *,
    target: float,
    confidence: float,
    max_referral: float,
    target_npv: float,
) -> list[ThresholdOffer]:
    """Return one offer for each method of ThresholdOffer, in that order; those without a threshold say why.

    Image rows or lesion rows. ``evidence`` of None means that the federation sent none. Raises ValueError
    where ``evidence`` is about another target or confidence.
    """
    if evidence is not None and (evidence.target, evidence.confidence) != (target, confidence):
        raise ValueError(
            f"threshold offers: the federation's evidence must be about a sensitivity of {target:g} at "
            f"{confidence:g}, found {evidence.target:g} at {evidence.confidence:g}"
        )
    lesions, tested = calibration.per_lesion(), test.per_lesion()
    malignant = lesions.triage[lesions.positive]
    own, certificate = certified_threshold(malignant, target, confidence)
    informed, said = _informed(malignant, evidence)
    found: list[tuple[Method, float | None, str]] = [
        ("federation", federation_point.threshold, f"Nothing is promised here. {federation_point.origin}"),
        ("site", None if own is None else snap_down(own), certificate.sentence),
        ("informed", informed, said),
        ("npv", *npv_threshold(lesions, target_npv, confidence)),
        ("referral", *referral_threshold(lesions, max_referral, confidence)),
    ]
    return [_offer(method, threshold, promise, tested) for method, threshold, promise in found]


def _informed(malignant: Floats, evidence: FederationEvidence | None) -> tuple[float | None, str]:
    if evidence is None:
        return None, "Cannot be certified: the federation sent no evidence."
    found = informed_threshold(malignant, evidence)
    return found.threshold, found.sentence


def _offer(method: Method, threshold: float | None, promise: str, lesions: Scores) -> ThresholdOffer:
    costs = costs_of(lesions, threshold)
    return ThresholdOffer(
        method=method,
        threshold=threshold,
        certified=method != "federation" and threshold is not None,
        promise=promise,
        assumption=ASSUMPTIONS[method],
        sensitivity=costs["sensitivity"],
        specificity=costs["specificity"],
        npv=costs["npv"],
        referrals_per_1000=costs["referrals_per_1000"],
    )


def costs_of(lesions: Scores, threshold: float | None) -> dict[str, Estimate]:
    """Return sensitivity, specificity, npv and referrals_per_1000 of lesion rows, with Wilson's intervals.

    No values without a threshold or without a lesion to count.
    """
    if threshold is None:
        return dict.fromkeys(
            ("sensitivity", "specificity", "npv", "referrals_per_1000"), Estimate(value=None)
        )
    called, malignant = lesions.triage >= threshold, lesions.positive
    return {
        "sensitivity": proportion(called[malignant]),
        "specificity": proportion(~called[~malignant]),
        "npv": proportion(~malignant[~called]),
        "referrals_per_1000": proportion(called, per=1000),
    }


def proportion(hits: NDArray[np.bool_], per: float = 1) -> Estimate:
    """Return the share of True with Wilson's 95 % interval, times ``per``; no value for an empty array."""
    n, count = len(hits), int(np.count_nonzero(hits))
    if n == 0:
        return Estimate(value=None)
    lower, upper = wilson(count, n)
    return Estimate(value=per * count / n, lower=per * lower, upper=per * upper)
