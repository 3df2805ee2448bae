"""Three zones: every test lesion in exactly one, bounds certified where they can be."""

import math

import numpy as np
import pytest

from fedderm.evaluation.counts import EVERYTHING
from fedderm.evaluation.documents import Estimate, OperatingPoint, ThresholdOffer
from fedderm.evaluation.predictive_values import ppv_threshold
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.zones import edge_of_probability, zones

NOTHING = Estimate(value=None)


def point(slope: float = 1.0, intercept: float = 0.0) -> OperatingPoint:
    return OperatingPoint(
        calibration="platt",
        slope=slope,
        intercept=intercept,
        threshold=0.0,
        threshold_probability=0.5,
        origin="",
    )


def offer(method: str, threshold: float | None) -> ThresholdOffer:
    return ThresholdOffer.model_validate(
        {
            "method": method,
            "threshold": threshold,
            "certified": threshold is not None,
            "promise": f"By {method}.",
            "assumption": "",
            "sensitivity": NOTHING,
            "specificity": NOTHING,
            "npv": NOTHING,
            "referrals_per_1000": NOTHING,
        }
    )


def site(n: int, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.3).astype(int)
    logits = np.where(truth, 1.5, -1.0) + rng.normal(size=n)
    return Scores(logits, np.ones(n, int), truth, np.arange(n).astype(str))


def test_every_lesion_is_in_one_zone_with_its_malignancy() -> None:
    calibration, test = site(800, 0), site(500, 1)
    low, middle, high = zones(calibration, test, [offer("site", -1.0)], point(), confidence=0.95)
    certified, _ = ppv_threshold(calibration, 0.5, 0.95)
    assert [zone.name for zone in (low, middle, high)] == ["low", "middle", "high"]
    assert (low.lower, low.upper, middle.lower, middle.upper) == (None, -1.0, -1.0, certified)
    assert (high.lower, high.upper) == (certified, None)
    assert low.lesions + middle.lesions + high.lesions == 500
    assert low.malignant + middle.malignant + high.malignant == test.positive.sum()
    assert low.lesions == (test.triage < -1.0).sum()
    assert high.malignant == (test.positive & (test.triage >= certified)).sum()
    for zone in (low, middle, high):
        assert zone.malignancy.value == zone.malignant / zone.lesions
        assert (zone.malignancy.lower, zone.malignancy.upper) == wilson(zone.malignant, zone.lesions)
        assert (zone.share.lower, zone.share.upper) == wilson(zone.lesions, 500)
    assert low.malignancy.value < middle.malignancy.value < high.malignancy.value


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        ({"site": -0.5, "informed": -1.0, "npv": -0.75}, -0.5),
        ({"site": None, "informed": -1.0, "npv": -0.75}, -1.0),
        ({"site": None, "informed": None, "npv": -0.75}, -0.75),
    ],
)
def test_the_low_bound_is_the_first_certified(offered: dict[str, float | None], expected: float) -> None:
    offers = [offer(method, threshold) for method, threshold in reversed(offered.items())]
    low = zones(site(800, 0), site(100, 1), offers, point(), confidence=0.95)[0]
    assert low.upper == expected
    method = next(name for name, threshold in offered.items() if threshold is not None)
    assert low.basis == f"Low bound: By {method}."


def test_without_anything_certified_the_papers_probabilities_stand_in() -> None:
    """p = sigmoid(2 x - 1): 0.15 at x = (logit 0.15 + 1) / 2 and 0.50 at x = 0.5."""
    low, _, high = zones(
        Scores.empty(), site(100, 1), [offer("site", None)], point(2.0, -1.0), confidence=0.95
    )
    expected = (math.log(0.15 / 0.85) + 1) / 2
    assert low.upper is not None
    assert 0 <= expected - low.upper < 1 / 256
    assert high.lower == 0.5
    assert "a probability of 0.15; nothing is certified" in low.basis
    assert "a probability of 0.50" in high.basis


def test_crossing_bounds_leave_the_middle_empty_and_reassure_nobody_more() -> None:
    low, middle, high = zones(site(800, 0), site(300, 1), [offer("site", 3.0)], point(), confidence=0.95)
    assert low.upper == middle.lower == middle.upper == high.lower == 3.0
    assert middle.lesions == 0
    assert middle.malignancy.value is None
    assert low.lesions + high.lesions == 300
    assert "which lies higher" in high.basis


def test_no_edge_is_below_a_probability_that_all_exceed() -> None:
    assert edge_of_probability(point(0.01, 5.0), 0.15) == EVERYTHING
    assert edge_of_probability(point(0.01, -5.0), 0.5) == 24.0
    assert edge_of_probability(point(), 0.5) == 0.0
