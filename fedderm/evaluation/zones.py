"""Three ways to send a lesion: reassure, see again, refer; with two thresholds on the raw triage logit.

The prospective validation of the cascade (arXiv 2605.27561) routes by P(malignant): below 0.15, between, 0.50
and above. Here the lower bound is a certified threshold and the upper one has a certified positive predictive
value, wherever the site's calibration lesions suffice; elsewhere the paper's probabilities stand in.
"""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from fedderm.evaluation.calibration import CalibrationMap
from fedderm.evaluation.counts import BIN_EDGES, EVERYTHING
from fedderm.evaluation.documents import OperatingPoint, ThresholdOffer, Zone
from fedderm.evaluation.offers import proportion
from fedderm.evaluation.predictive_values import ppv_threshold
from fedderm.evaluation.scores import Scores

LOW: Final = 0.15
HIGH: Final = 0.50
"""The paper's bounds, as calibrated probabilities."""

PREFERENCE: Final = ("site", "informed", "npv")
"""Whose certified threshold bounds the low zone, first come first."""


def zones(
    calibration: Scores,
    test: Scores,
    offers: Sequence[ThresholdOffer],
    point: OperatingPoint,
    *,
    confidence: float,
    target_ppv: float = HIGH,
) -> list[Zone]:
    """Return the low, middle and high zone with their test lesions; ``basis`` says where each bound is from.

    ``offers`` are those of ``threshold_offers``; ``point`` is the site's operating point, whose calibration
    map turns the paper's probabilities into logits. Where the high bound would lie below the low one, the
    middle zone is empty and the low bound counts: a lesion above it is never only reassured.
    """
    low, low_basis = _low(offers, point)
    high, high_basis = _high(calibration, point, target_ppv, confidence)
    if high < low:
        high, high_basis = low, f"The low zone's bound, which lies higher. {high_basis}"
    lesions = test.per_lesion()
    return [
        _zone("low", None, low, low_basis, lesions),
        _zone("middle", low, high, f"Between the two bounds. {low_basis} {high_basis}", lesions),
        _zone("high", high, None, high_basis, lesions),
    ]


def edge_of_probability(point: OperatingPoint, probability: float) -> float:
    """Return the highest bin edge whose calibrated probability is at most ``probability``.

    EVERYTHING where none is. Works for every map: none of them falls as the logit rises.
    """
    mapped = CalibrationMap.of(point).probabilities(BIN_EDGES)
    at = int(np.searchsorted(mapped, probability, side="right"))
    return float(BIN_EDGES[at - 1]) if at else EVERYTHING


def _low(offers: Sequence[ThresholdOffer], point: OperatingPoint) -> tuple[float, str]:
    certified = {offer.method: offer for offer in offers if offer.certified}
    for method in PREFERENCE:
        offer = certified.get(method)
        if offer is not None and offer.threshold is not None:
            return offer.threshold, f"Low bound: {offer.promise}"
    return edge_of_probability(point, LOW), f"Low bound: a probability of {LOW:.2f}; nothing is certified."


def _high(
    calibration: Scores, point: OperatingPoint, target_ppv: float, confidence: float
) -> tuple[float, str]:
    threshold, sentence = ppv_threshold(calibration, target_ppv, confidence)
    if threshold is not None:
        return threshold, f"High bound: {sentence}"
    return edge_of_probability(point, HIGH), f"High bound: a probability of {HIGH:.2f}. {sentence}"


def _zone(
    name: Literal["low", "middle", "high"],
    lower: float | None,
    upper: float | None,
    basis: str,
    lesions: Scores,
) -> Zone:
    inside = np.ones(len(lesions), dtype=np.bool_)
    if lower is not None:
        inside &= lesions.triage >= lower
    if upper is not None:
        inside &= lesions.triage < upper
    return Zone(
        name=name,
        lower=lower,
        upper=upper,
        basis=basis,
        lesions=int(np.count_nonzero(inside)),
        malignant=int(np.count_nonzero(lesions.positive[inside])),
        share=proportion(inside),
        malignancy=proportion(lesions.positive[inside]),
    )
