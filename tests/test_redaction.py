"""What a minimum cell size keeps out of everything that leaves, and inputs that once broke a verdict."""

import numpy as np
import pytest
from test_counts import draw
from test_recalibration import EVIDENCE, SETTINGS, attributes_of, size

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.comparison import paired_differences
from fedderm.evaluation.counts import Counts, counts_of
from fedderm.evaluation.departure import departure
from fedderm.evaluation.documents import Estimate, ShiftDiagnosis, SiteEvaluation
from fedderm.evaluation.recalibration import EvaluationSettings, federation_point, operating_point
from fedderm.evaluation.replicates import site_replicates
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.shift_reference import block_of
from fedderm.evaluation.site_evaluation import evaluate_site


def few(malignant: int, benign: int, seed: int, name: str) -> Scores:
    """Return one image a lesion of so many malignant and benign lesions."""
    scores = draw(400, 400, seed, name).per_lesion()
    rows = [np.flatnonzero(scores.positive)[:malignant], np.flatnonzero(~scores.positive)[:benign]]
    return scores.take(np.concatenate(rows))


def diagnosis(verdict: str, lesions: int) -> ShiftDiagnosis:
    return ShiftDiagnosis.model_validate(
        {
            "verdict": verdict,
            "prevalence": Estimate(value=None),
            "reference_prevalence": 0.3,
            "prior_shift": 0.0,
            "evidence": {"lesions": float(lesions)},
            "sentence": f"{lesions} lesions here.",
            "action": "Collect labels.",
        }
    )


def told(calibration: Scores, test: Scores, min_cell: int, verdict: str = "unknown") -> SiteEvaluation:
    point, _ = federation_point(counts_of(draw(400, 600, 77, "train")), 0.9, 0.95)
    return evaluate_site(
        site="clinic",
        role="held-out",
        calibration=calibration,
        test=test,
        sizes={"calibration": size(calibration), "test": size(test)},
        diagnoses={},
        attributes=attributes_of(test),
        federation_point=point,
        evidence=EVIDENCE,
        shift=diagnosis(verdict, len(calibration.per_lesion())),
        settings=EvaluationSettings(
            target_sensitivity=0.9, confidence=0.95, bootstrap=50, seed=1, scheme="cascade", min_cell=min_cell
        ),
    )


def test_a_small_calibration_class_is_told_nowhere() -> None:
    calibration, test = few(7, 120, 1, "c"), few(60, 120, 2, "t")
    open_, kept = (told(calibration, test, cell, "neither") for cell in (0, 10))
    assert any("7 malignant lesions" in zone.basis for zone in open_.zones), "there is something to hide"
    text = kept.model_dump_json()
    assert "7 malignant" not in text
    assert (kept.zones, kept.thresholds, kept.whole_site) == ([], [], {})
    assert kept.site_point.prevalence is None
    assert (kept.splits["calibration"].positive_lesions, kept.splits["calibration"].positive_images) == (0, 0)


def test_few_benign_lesions_do_not_follow_from_the_malignant_ones() -> None:
    found = told(few(57, 3, 1, "c"), few(60, 120, 2, "t"), 10).splits["calibration"]
    assert (found.lesions, found.positive_lesions) == (60, 0)


def test_few_lesions_are_not_told_by_the_shift() -> None:
    found = told(few(3, 4, 1, "c"), few(60, 120, 2, "t"), 10).shift
    assert found is not None
    assert "lesions" not in found.evidence
    assert "7" not in found.sentence


def test_sentences_count_no_errors_under_a_minimum() -> None:
    found = told(few(60, 400, 1, "c"), few(60, 120, 2, "t"), 10)
    promises = {offer.method: offer.promise for offer in found.thresholds}
    assert "policy keeps the counts" in promises["npv"]
    assert all("policy keeps" in zone.basis for zone in found.zones)


def test_replicates_of_images_stay_where_small_cells_do() -> None:
    """Whoever knows the draws solves them for each lesion's own images."""
    scores = draw(60, 90, 1, "a")
    seed = np.random.SeedSequence(1)
    assert set(site_replicates(scores, resamples=5, seed=seed, threshold=0.0)) == {"image", "lesion"}
    assert set(site_replicates(scores, resamples=5, seed=seed, threshold=0.0, min_cell=10)) == {"lesion"}


@pytest.mark.parametrize(("verdict", "offered"), [("acquisition", False), ("both", False), ("neither", True)])
def test_the_informed_threshold_is_withheld_where_the_images_changed(verdict: str, offered: bool) -> None:
    found = told(few(20, 120, 1, "c"), few(60, 120, 2, "t"), 0, verdict)
    informed = next(one for one in found.thresholds if one.method == "informed")
    assert informed.certified is offered
    assert (informed.threshold is not None) is offered
    assert ("new sites like the training sites" in found.zones[0].basis) is offered


def test_one_class_behind_the_federations_map_is_no_prevalence() -> None:
    benign = draw(200, 200, 1, "a")
    benign = benign.take(np.flatnonzero(~benign.positive))
    assert federation_point(counts_of(benign), 0.9, 0.95)[0].prevalence is None
    assert federation_point(Counts.zero(), 0.9, 0.95)[0].prevalence is None
    found = told(few(20, 120, 1, "c"), few(60, 120, 2, "t"), 0)
    assert found.federation_point.prevalence is not None
    assert 0 < found.federation_point.prevalence < 1


def test_features_that_do_not_vary_give_no_alarm() -> None:
    number = np.full((4, 4), 10)
    block = block_of(number, np.zeros((4, 4, 3)), np.zeros((4, 4, 3)))
    found = departure(block, np.zeros((50, 3)))
    assert (found.ratio, found.p_value) == (1.0, 1.0)


@pytest.mark.parametrize(("malignant", "resamples"), [(2, 100), (40, 0)])
def test_differences_without_a_sound_interval_have_none(malignant: int, resamples: int) -> None:
    one, two = few(malignant, 100, 1, "a"), few(malignant, 100, 1, "a").shifted(0.1)
    point = operating_point(CalibrationMap(), 0.0, "")
    found = paired_differences(one, two, (point, point), SETTINGS.scheme, resamples=resamples, seed=1)
    assert found["lesion"]["sensitivity"].value is not None
    assert found["lesion"]["sensitivity"].lower is None


def test_a_rate_of_a_few_referred_lesions_is_not_told() -> None:
    """Of 200 test lesions a threshold refers three: their PPV is a rate of a group below the minimum."""
    test = few(100, 100, 3, "test")
    triage = np.where(np.arange(len(test)) < 3, 9.0, -9.0)
    seldom = Scores(triage, test.differential, test.truth, test.lesion)
    shown, hidden = (told(few(60, 60, 4, "c"), seldom, minimum).before["lesion"] for minimum in (0, 10))
    assert shown.metrics["ppv"].value is not None
    assert hidden.metrics["ppv"] == Estimate(value=None)
    assert hidden.metrics["accuracy"].value == shown.metrics["accuracy"].value
