"""Operating points of the federation and of a site; before and after, at ordinary and degenerate sites."""

import dataclasses
import json

import numpy as np
import pytest
from test_counts import draw

from fedderm.evaluation.calibration import IDENTITY
from fedderm.evaluation.counts import EVERYTHING, UNITS, Counts, counts_of, snap_down
from fedderm.evaluation.documents import FederationEvaluation, SiteEvaluation, SplitSize
from fedderm.evaluation.informed import evidence_of
from fedderm.evaluation.long_format import (
    COLUMNS,
    long_rows_of_counts,
    long_rows_of_federation,
    long_rows_of_site,
)
from fedderm.evaluation.metrics import METRICS
from fedderm.evaluation.recalibration import (
    EvaluationSettings,
    evaluate_federation,
    federation_point,
    operating_point,
    site_seed,
)
from fedderm.evaluation.replicates import site_replicates, sum_replicates
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.site_evaluation import evaluate_site
from fedderm.evaluation.subgroup_levels import Names
from fedderm.evaluation.thresholds import certified_threshold

SETTINGS = EvaluationSettings(
    target_sensitivity=0.9, confidence=0.95, bootstrap=200, seed=1, scheme="cascade"
)


def shifted(scores: Scores, by: float) -> Scores:
    return dataclasses.replace(scores, triage=scores.triage + by)


def size(scores: Scores) -> SplitSize:
    lesions = scores.per_lesion()
    return SplitSize(
        images=len(scores),
        lesions=len(lesions),
        positive_images=int(scores.positive.sum()),
        positive_lesions=int(lesions.positive.sum()),
    )


EVIDENCE = evidence_of([-0.4, -0.1, 0.2, 0.0, 0.3], 0.9, 0.95)
"""Of five training sites, about as far apart as real ones."""


def attributes_of(scores: Scores) -> dict[str, Names]:
    """Return a sex for each lesion's images."""
    _, owner = np.unique(scores.lesion, return_inverse=True)
    return {"sex": np.array(["female", "male", ""])[owner % 3]}


def evaluate(
    calibration: Scores | None, test: Scores, role: str = "held-out", settings: EvaluationSettings = SETTINGS
) -> SiteEvaluation:
    point, _ = federation_point(counts_of(draw(400, 600, 77, "train")), 0.9, 0.95)
    splits = {"calibration": size(calibration or Scores.empty()), "test": size(test)}
    found = evaluate_site(
        site="clinic",
        role=role,
        calibration=calibration,
        test=test,
        sizes=splits,
        diagnoses={"nv": 120, "mel": 4},
        attributes=attributes_of(test),
        federation_point=point,
        evidence=EVIDENCE,
        shift=None,
        settings=settings,
    )
    # Everything a site says survives the journey as JSON, which knows no NaN and no infinity.
    text = found.model_dump_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert SiteEvaluation.model_validate(json.loads(text)) == found
    return found


def test_a_shifted_site_misses_its_target_until_it_recalibrates() -> None:
    """Logits 2 lower than at the training sites: sensitivity and calibration break, the AUC stays."""
    found = evaluate(shifted(draw(400, 500, 2, "c"), -2), shifted(draw(900, 1200, 3, "t"), -2))
    before, after = found.before["lesion"].metrics, found.after["lesion"].metrics
    assert before["sensitivity"].upper < 0.8
    assert after["sensitivity"].value >= 0.9
    assert after["ece"].value < before["ece"].value - 0.1
    assert after["brier"].value < before["brier"].value
    assert after["auc"] == before["auc"]
    assert found.certificate.certified
    assert found.site_point.origin.startswith(
        "The site's own calibration split. Certified: a sensitivity of 90 %"
    )


def test_the_sites_threshold_is_the_certified_one_on_a_bin_edge() -> None:
    calibration = draw(300, 400, 5)
    found = evaluate(calibration, draw(100, 100, 6, "t"))
    lesions = calibration.per_lesion()
    exact, _ = certified_threshold(lesions.triage[lesions.positive], 0.9, 0.95)
    assert found.site_point.threshold == snap_down(exact)
    p = 1 / (1 + np.exp(-(found.site_point.slope * found.site_point.threshold + found.site_point.intercept)))
    assert found.site_point.threshold_probability == pytest.approx(p)


def test_with_too_few_lesions_the_federations_threshold_stays() -> None:
    found = evaluate(draw(30, 30, 8), draw(100, 100, 6, "t"))
    assert found.site_point.threshold == found.federation_point.threshold
    positives = found.certificate.positives
    assert positives < 29
    assert found.certificate.sentence.startswith(
        f"Cannot be certified: {positives} malignant lesions now, 29 needed"
    )
    assert found.site_point.origin.startswith("The federation's threshold stays. Cannot be certified")


def test_only_a_held_out_site_is_judged_as_a_whole() -> None:
    calibration, test = draw(60, 80, 1, "c"), draw(90, 120, 2, "t")
    whole = evaluate(calibration, test).whole_site
    assert (whole["image"].n, whole["lesion"].n) == (200, 150)
    assert evaluate(calibration, test, role="train").whole_site == {}


def positives(n: int, seed: int) -> Scores:
    scores = draw(200, 200, seed, f"s{seed}")
    return scores.take(np.flatnonzero(scores.positive)[:n])


def benign(n: int, seed: int) -> Scores:
    scores = draw(200, 200, seed, f"s{seed}")
    return scores.take(np.flatnonzero(~scores.positive)[:n])


NEED_BOTH = {"auc", "average_precision", "balanced_accuracy", "calibration_slope", "calibration_intercept"}
NEED_MALIGNANT = {"sensitivity", "f1"}


@pytest.mark.parametrize(
    ("calibration", "test", "undefined"),
    [
        (None, draw(40, 50, 1), set()),
        (draw(40, 50, 1), benign(30, 2), NEED_BOTH | NEED_MALIGNANT),
        (benign(30, 2), draw(40, 50, 1), set()),
        (positives(40, 3), positives(20, 4), NEED_BOTH | {"specificity"}),
        (positives(1, 3), positives(1, 4), NEED_BOTH | {"specificity"}),
        (Scores.empty(), benign(1, 4), NEED_BOTH | NEED_MALIGNANT),
        (Scores.empty(), Scores.empty(), set(METRICS)),
    ],
    ids=[
        "no calibration",
        "no test positives",
        "no calibration positives",
        "all malignant",
        "one",
        "one benign",
        "none",
    ],
)
def test_degenerate_sites(calibration: Scores | None, test: Scores, undefined: set[str]) -> None:
    found = evaluate(calibration, test)
    for unit in UNITS:
        for performance in (found.before[unit], found.after[unit]):
            empty = {name for name, estimate in performance.metrics.items() if estimate.value is None}
            called = sum(sum(row[1:]) for row in performance.confusion)
            assert empty == (undefined if called else undefined | {"ppv"})
    assert found.site_point.threshold_probability >= 0
    assert len(long_rows_of_site(found)) == 3 * 2 * len(METRICS)


def test_federation_point_equals_that_of_the_pooled_scores() -> None:
    one, two = draw(120, 150, 1, "a"), draw(90, 100, 2, "b")
    summed = federation_point(counts_of(one) + counts_of(two), 0.9, 0.95, seed=3)
    assert summed == federation_point(counts_of(Scores.join(one, two)), 0.9, 0.95, seed=3)
    assert snap_down(summed[0].threshold) == summed[0].threshold


def test_a_federation_without_calibration_data_still_has_a_point() -> None:
    point, certificate = federation_point(Counts.zero(), 0.9, 0.95)
    assert (point.calibration, point.threshold, certificate.certified) == ("identity", 0.0, False)


def test_calling_everything_malignant_survives_json() -> None:
    point = operating_point(IDENTITY, EVERYTHING, "")
    assert type(point).model_validate_json(point.model_dump_json()) == point
    assert point.threshold_probability == 0


def federation() -> tuple[list[Scores], FederationEvaluation]:
    sites = [draw(200, 260, 1, "a"), draw(150, 200, 2, "b")]
    point, certificate = federation_point(sum((counts_of(s) for s in sites), Counts.zero()), 0.9, 0.95)
    drawn = [
        site_replicates(s, resamples=200, seed=site_seed(1, n, "pool"), threshold=point.threshold)
        for s, n in zip(sites, "ab", strict=True)
    ]
    replicates = {unit: sum_replicates([d[unit] for d in drawn]) for unit in UNITS}
    counts = sum((counts_of(s) for s in sites), Counts.zero())
    return sites, evaluate_federation({"train": counts}, {"train": replicates}, point, certificate, "cascade")


def test_the_pool_is_judged_from_sums_as_from_its_scores() -> None:
    sites, found = federation()
    assert FederationEvaluation.model_validate_json(found.model_dump_json()) == found
    whole = evaluate_site(
        site="pool",
        role="train",
        calibration=None,
        test=Scores.join(*sites),
        sizes={},
        diagnoses={},
        attributes={},
        federation_point=found.operating_point,
        evidence=None,
        shift=None,
        settings=SETTINGS,
    )
    for unit in UNITS:
        ours, theirs = found.pooled["train"][unit], whole.before[unit]
        assert (ours.n, ours.positives, ours.confusion) == (theirs.n, theirs.positives, theirs.confusion)
        for name in ("auc", "sensitivity", "specificity", "balanced_accuracy", "brier"):
            a, b = ours.metrics[name], theirs.metrics[name]
            assert a.value == pytest.approx(b.value, abs=5e-4)
            # Other draws, and stratified by site: the same interval up to the noise of 200 resamples.
            assert (a.lower, a.upper) == pytest.approx((b.lower, b.upper), abs=0.03)
    assert set(found.pooled) == {"train"}


def test_replicates_of_other_lesions_leave_values_without_intervals() -> None:
    sites, found = federation()
    part = site_replicates(
        sites[0], resamples=50, seed=site_seed(1, "a", "pool"), threshold=found.operating_point.threshold
    )
    counts = sum((counts_of(s) for s in sites), Counts.zero())
    got = evaluate_federation(
        {"train": counts}, {"train": part}, found.operating_point, found.certificate, "cascade"
    )
    auc = got.pooled["train"]["lesion"].metrics["auc"]
    assert auc.value == found.pooled["train"]["lesion"].metrics["auc"].value
    assert auc.lower is None


def test_long_rows_have_the_columns_of_the_format() -> None:
    _, found = federation()
    site = evaluate(draw(40, 50, 1), draw(40, 50, 2, "t"))
    counts = long_rows_of_counts(
        counts_of(draw(40, 50, 1)),
        found.operating_point,
        "cascade",
        site="a",
        role="train",
        split="test",
        round_=2,
    )
    rows = long_rows_of_federation(found) + long_rows_of_site(site, 4) + counts
    assert all(tuple(row) == COLUMNS for row in rows)
    assert {row["split"] for row in rows} == {"test", "test-recalibrated", "whole-site"}
    assert {row["site"] for row in rows} == {"(pooled)", "clinic", "a"}
    assert {row["round"] for row in rows} == {None, 2, 4}
    keys = [(r["site"], r["role"], r["split"], r["round"], r["unit"], r["metric"]) for r in rows]
    assert len(set(keys)) == len(keys)


def test_a_minimum_cell_keeps_small_counts_in_the_site() -> None:
    strict = dataclasses.replace(SETTINGS, min_cell=10)
    test = Scores.join(benign(80, 1), shifted(positives(40, 2), 0.0))
    test = dataclasses.replace(test, lesion=np.arange(len(test)).astype(str))
    found = evaluate(draw(30, 30, 8), test, settings=strict)
    assert found.diagnoses == {"nv": 120}
    for performance in (found.before["lesion"], found.after["lesion"]):
        assert all(cell == 0 or cell >= 10 for row in performance.confusion for cell in row)
        assert performance.metrics["auc"].value is not None
    assert all(b.n >= 10 for b in found.reliability_before + found.reliability_after)
    for rates, n in (
        (found.roc["lesion"].true_positive_rate, 40),
        (found.roc["lesion"].false_positive_rate, 80),
    ):
        steps = np.diff(rates) * n
        assert np.all((np.abs(steps) < 1e-9) | (steps > 10 - 1e-9))
        assert (rates[0], rates[-1]) == (0, 1)


def test_a_class_below_the_minimum_is_never_told() -> None:
    strict = dataclasses.replace(SETTINGS, min_cell=10)
    few = Scores.join(benign(60, 1), positives(7, 1))
    found = evaluate(few, few, settings=strict)
    assert found.splits["test"].positive_lesions == 0
    assert found.certificate.positives == 0
    assert "fewer than 10 malignant lesions" in found.certificate.sentence
    for point in (found.certificate.sentence, found.site_point.origin):
        assert " 7 " not in point
    assert all(e.value is None for e in found.after["lesion"].metrics.values())
    assert (found.after["lesion"].n, found.after["lesion"].confusion) == (0, [])
    assert found.roc["lesion"].true_positive_rate == []
