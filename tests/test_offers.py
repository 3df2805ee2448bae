"""What each threshold costs: five offers, judged on lesions that chose none of them."""

import numpy as np
import pytest

from fedderm.evaluation.counts import check_on_edge, snap_down
from fedderm.evaluation.documents import OperatingPoint, ThresholdOffer
from fedderm.evaluation.informed import evidence_of
from fedderm.evaluation.offers import threshold_offers
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.thresholds import certified_threshold

POINT = OperatingPoint(
    calibration="identity",
    slope=1,
    intercept=0,
    threshold=0.25,
    threshold_probability=0.56,
    origin="The pooled calibration splits of the training sites.",
)
EVIDENCE = evidence_of([0.0, 0.2, 0.3, 0.4, 0.5], 0.9, 0.95, lesions=300)


def site(malignant: int, benign: int, seed: int) -> Scores:
    rng, n = np.random.default_rng(seed), malignant + benign
    truth = np.repeat([1, 0], [malignant, benign])
    logits = np.where(truth, 1.5, -1.0) + rng.normal(size=n)
    return Scores(logits, np.ones(n, int), truth, np.arange(n).astype(str))


def offers(calibration: Scores, test: Scores) -> dict[str, ThresholdOffer]:
    found = threshold_offers(
        calibration, test, POINT, EVIDENCE, target=0.9, confidence=0.95, max_referral=0.5, target_npv=0.98
    )
    assert [offer.method for offer in found] == ["federation", "site", "informed", "npv", "referral"]
    return {offer.method: offer for offer in found}


def test_a_large_site_is_offered_all_five_on_bin_edges() -> None:
    calibration, test = site(80, 700, 0), site(60, 500, 1)
    found = offers(calibration, test)
    for offer in found.values():
        assert offer.threshold is not None
        check_on_edge(offer.threshold)
        assert offer.certified == (offer.method != "federation")
        assert offer.assumption.endswith(".")
    own, _ = certified_threshold(calibration.triage[calibration.positive], 0.9, 0.95)
    assert own is not None
    assert found["site"].threshold == snap_down(own)
    assert found["federation"].threshold == POINT.threshold
    assert len({offer.promise for offer in found.values()}) == 5


def test_costs_are_those_of_the_test_lesions() -> None:
    calibration, test = site(80, 700, 0), site(60, 500, 1)
    for offer in offers(calibration, test).values():
        assert offer.threshold is not None
        called, malignant = test.triage >= offer.threshold, test.positive
        expected = {
            "sensitivity": (int((called & malignant).sum()), 60, 1),
            "specificity": (int((~called & ~malignant).sum()), 500, 1),
            "npv": (int((~called & ~malignant).sum()), int((~called).sum()), 1),
            "referrals_per_1000": (int(called.sum()), 560, 1000),
        }
        for name, (hits, n, per) in expected.items():
            estimate = getattr(offer, name)
            assert estimate.value == pytest.approx(per * hits / n)
            assert (estimate.lower, estimate.upper) == pytest.approx([per * end for end in wilson(hits, n)])


def test_images_are_counted_once_per_lesion() -> None:
    calibration, test = site(40, 300, 2), site(30, 200, 3)
    triple = (Scores.join(calibration, calibration, calibration), Scores.join(test, test, test))
    assert offers(calibration, test) == offers(*triple)


def test_a_small_site_is_told_what_is_missing_and_offered_the_informed_threshold() -> None:
    found = offers(site(12, 60, 4), site(12, 60, 5))
    assert found["site"].threshold is None
    assert not found["site"].certified
    assert "12 malignant lesions now, 29 needed" in found["site"].promise
    assert "17 more" in found["site"].promise
    assert found["site"].sensitivity.value is None
    assert found["informed"].certified
    assert found["npv"].promise.startswith("Cannot be certified: 72 calibration lesions now")


def test_empty_splits_and_no_evidence_give_sentences_and_no_numbers() -> None:
    found = threshold_offers(
        Scores.empty(),
        Scores.empty(),
        POINT,
        None,
        target=0.9,
        confidence=0.95,
        max_referral=0.5,
        target_npv=0.98,
    )
    assert [offer.threshold for offer in found] == [0.25, None, None, None, None]
    assert found[2].promise == "Cannot be certified: the federation sent no evidence."
    assert all(offer.sensitivity.value is None for offer in found)
    assert all(ThresholdOffer.model_validate_json(offer.model_dump_json()) == offer for offer in found)


def test_evidence_about_another_target_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be about a sensitivity of 0.95 at 0.95, found 0.9 at 0.95"):
        threshold_offers(
            Scores.empty(),
            Scores.empty(),
            POINT,
            EVIDENCE,
            target=0.95,
            confidence=0.95,
            max_referral=0.5,
            target_npv=0.98,
        )
