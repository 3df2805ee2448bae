"""Metrics against scikit-learn, from scores and from counts that add up."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn import metrics as sk
from test_counts import draw

from fedderm.evaluation.calibration import CalibrationMap
from fedderm.evaluation.counts import UNITS, Counts, counts_of, snap_down
from fedderm.evaluation.metrics import (
    METRICS,
    absent_classes,
    confusion_matrix,
    decisions,
    f1,
    metrics_of,
    metrics_of_counts,
    reliability,
    roc_of,
    roc_of_counts,
)
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.recalibration import operating_point
from fedderm.evaluation.scores import Scores

Scheme = Literal["binary", "four_class", "cascade"]
POINT = operating_point(CalibrationMap("platt", 1.3, -0.4), snap_down(-0.37), "chosen for the test")


@pytest.mark.parametrize("scheme", ["binary", "four_class", "cascade"])
def test_exact_metrics_equal_scikit_learns(scheme: Scheme) -> None:
    scores = draw(250, 400, 7)
    y, p = scores.positive, 1 / (1 + np.exp(-(1.3 * scores.triage - 0.4)))
    called = scores.triage >= POINT.threshold
    truth = y.astype(int) if scheme == "binary" else scores.truth
    decided = decisions(scores, POINT, scheme)
    expected = {
        "auc": sk.roc_auc_score(y, scores.triage),
        "average_precision": sk.average_precision_score(y, scores.triage),
        "sensitivity": sk.recall_score(y, called),
        "specificity": sk.recall_score(~y, ~called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "accuracy": sk.accuracy_score(y, called),
        "ppv": sk.precision_score(y, called),
        "f1": sk.f1_score(y, called),
        "macro_f1": sk.f1_score(truth, decided, average="macro"),
        "brier": sk.brier_score_loss(y, p),
        "referrals_per_1000": 1000 * called.mean(),
    }
    found = metrics_of(scores, POINT, scheme)
    assert set(found) == set(METRICS)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    labels = range(2 if scheme == "binary" else 4)
    assert (
        confusion_matrix(scores, POINT, scheme) == sk.confusion_matrix(truth, decided, labels=labels).tolist()
    )


def test_auc_counts_ties_one_half() -> None:
    rng = np.random.default_rng(3)
    scores = Scores(
        rng.integers(-2, 3, 200).astype(float), np.ones(200, int), rng.integers(0, 2, 200), np.arange(200)
    )
    found = metrics_of(scores, POINT, "binary")
    assert found["auc"] == pytest.approx(sk.roc_auc_score(scores.positive, scores.triage))
    theirs = sk.average_precision_score(scores.positive, scores.triage)
    assert found["average_precision"] == pytest.approx(theirs, abs=1e-12)


def test_weights_count_as_repeated_rows() -> None:
    scores = draw(60, 90, 5)
    times = np.random.default_rng(0).integers(0, 4, 90)
    weighted = metrics_of(scores, POINT, "cascade", times.astype(float))
    repeated = metrics_of(scores.take(np.repeat(np.arange(90), times)), POINT, "cascade")
    assert weighted == pytest.approx(repeated, abs=1e-9)
    theirs = sk.average_precision_score(scores.positive, scores.triage, sample_weight=times)
    assert weighted["average_precision"] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("spread", [1.0, 6.0])
def test_slope_and_intercept_equal_statsmodels(spread: float) -> None:
    scores = draw(200, 260, 11)
    scores = replace(scores, triage=scores.triage * spread)
    x, y = 1.3 * scores.triage - 0.4, scores.positive.astype(float)
    family = sm.families.Binomial()
    slope = sm.GLM(y, sm.add_constant(x), family=family).fit(tol=1e-12).params[1]
    intercept = sm.GLM(y, np.ones(len(y)), family=family, offset=x).fit(tol=1e-12).params[0]
    found = metrics_of(scores, POINT, "binary")
    assert found["calibration_slope"] == pytest.approx(slope, abs=1e-6)
    assert found["calibration_intercept"] == pytest.approx(intercept, abs=1e-6)


def test_a_map_that_is_too_sure_has_a_slope_below_one_and_one_too_low_an_intercept_above_zero() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1.5, 40_000)
    y = (rng.random(40_000) < 1 / (1 + np.exp(-x))).astype(int)
    for factor, shift in ((1.0, 0.0), (2.0, 0.0), (1.0, -0.7)):
        scores = Scores(factor * x + shift, np.ones(40_000, int), y, np.arange(40_000))
        found = metrics_of(scores, operating_point(CalibrationMap(), 0.0, ""), "binary")
        assert found["calibration_slope"] == pytest.approx(1 / factor, abs=0.04)
        if factor == 1:
            assert found["calibration_intercept"] == pytest.approx(-shift, abs=0.04)


def test_separated_classes_have_no_slope() -> None:
    for triage in ([-2.0, -1.0, 1.0, 2.0], [-2.0, 0.0, 0.0, 2.0], [2.0, 1.0, -1.0, -2.0], [0.0] * 4):
        scores = Scores(np.array(triage), np.ones(4, int), np.array([0, 0, 1, 1]), np.arange(4))
        found = metrics_of(scores, POINT, "binary")
        assert found["calibration_slope"] is None
        assert found["calibration_intercept"] is not None


def test_equal_mass_bins_hold_equal_numbers_and_divide_ties() -> None:
    rng = np.random.default_rng(2)
    p = np.sort(rng.uniform(0.01, 0.99, 15 * 8))
    y = rng.integers(0, 2, len(p))
    point = operating_point(CalibrationMap(), 0.0, "")
    scores = Scores(np.log(p / (1 - p)), np.ones(len(p), int), y, np.arange(len(p)))
    by_hand = sum(abs(part.sum()) for part in np.split(p - y, 15)) / len(p)
    assert metrics_of(scores, point, "binary")["ece_mass"] == pytest.approx(by_hand, abs=1e-12)
    # One probability for all: every bin holds the mean, in whatever order the rows come.
    same = replace(scores, triage=np.zeros(len(p)))
    assert metrics_of(same, point, "binary")["ece_mass"] == pytest.approx(abs(0.5 - y.mean()), abs=1e-12)


def test_ece_by_hand() -> None:
    # 0.52 and 0.525 share the bin 7/15..8/15: |1.045 - 1| = 0.045; 0.90 is alone: |0.9 - 0| = 0.9; n = 3.
    p = np.array([0.52, 0.525, 0.90])
    scores = Scores(np.log(p / (1 - p)), np.ones(3, int), np.array([1, 0, 0]), np.array(["a", "b", "c"]))
    point = operating_point(CalibrationMap(), 0.0, "")
    assert metrics_of(scores, point, "binary")["ece"] == pytest.approx((0.045 + 0.9) / 3)


def test_macro_f1_leaves_absent_classes_out_and_lists_them() -> None:
    scores = draw(200, 200, 4)
    scores = scores.take(scores.truth != 2)
    truth, decided = scores.truth, decisions(scores, POINT, "cascade")
    assert 2 in decided
    expected = sk.f1_score(truth, decided, labels=[0, 1, 3], average="macro")
    assert metrics_of(scores, POINT, "cascade")["macro_f1"] == pytest.approx(expected, abs=1e-12)
    assert absent_classes(confusion_matrix(scores, POINT, "cascade"), "cascade") == ["SCC"]


@pytest.mark.parametrize("scheme", ["binary", "cascade"])
@pytest.mark.parametrize("unit", UNITS)
def test_summed_counts_give_the_metrics_of_the_pool(scheme: Scheme, unit: Literal["image", "lesion"]) -> None:
    one, two = draw(120, 200, 1, "a"), draw(200, 260, 2, "b")
    pool = Scores.join(one, two)
    counts = counts_of(one) + counts_of(two)
    exact = metrics_of(pool if unit == "image" else pool.per_lesion(), POINT, scheme)
    found = metrics_of_counts(counts, unit, POINT, scheme)
    counted = ("sensitivity", "specificity", "balanced_accuracy", "accuracy", "ppv", "f1", "macro_f1")
    for name in (*counted, "referrals_per_1000"):
        assert found[name] == pytest.approx(exact[name], abs=1e-12), name
    bound = counts.auc_error_bound(unit)
    assert bound is not None
    assert bound < 5e-4
    assert abs(found["auc"] - exact["auc"]) <= bound
    assert found["brier"] == pytest.approx(exact["brier"], abs=2e-4)
    assert found["ece"] == pytest.approx(exact["ece"], abs=5e-3)
    assert found["ece_mass"] == pytest.approx(exact["ece_mass"], abs=2e-3)
    for name in ("average_precision", "calibration_slope", "calibration_intercept"):
        assert found[name] == pytest.approx(exact[name], abs=2e-3), name


def test_averaging_sites_would_have_been_wrong() -> None:
    """Two sites with perfect ranking at different levels: both AUCs are 1, the pool's is not."""
    low = Scores(np.array([-3.0, -2.0]), np.ones(2, int), np.array([0, 1]), np.array(["a", "b"]))
    high = Scores(np.array([2.0, 3.0]), np.ones(2, int), np.array([0, 1]), np.array(["c", "d"]))
    pool = metrics_of_counts(counts_of(low) + counts_of(high), "image", POINT, "binary")
    assert [metrics_of(s, POINT, "binary")["auc"] for s in (low, high)] == [1.0, 1.0]
    assert pool["auc"] == 0.75


def test_a_threshold_off_the_edges_is_refused() -> None:
    point = operating_point(CalibrationMap(), 0.001, "")
    with pytest.raises(ValueError, match="not on a bin edge"):
        metrics_of_counts(counts_of(draw(10, 10, 1)), "image", point, "binary")


def test_one_class_leaves_undefined_metrics_empty() -> None:
    scores = draw(80, 80, 2)
    benign = scores.take(~scores.positive)
    found = metrics_of(benign, POINT, "cascade")
    assert [name for name, value in found.items() if value is None] == [
        "auc",
        "average_precision",
        "sensitivity",
        "balanced_accuracy",
        "f1",
        "calibration_slope",
        "calibration_intercept",
    ]
    assert roc_of(benign).true_positive_rate == []
    assert all(value is None for value in metrics_of(Scores.empty(), POINT, "cascade").values())
    assert all(
        value is None for value in metrics_of_counts(Counts.zero(), "lesion", POINT, "binary").values()
    )
    assert reliability(Scores.empty(), POINT) == []


def test_the_area_under_the_roc_points_is_the_auc() -> None:
    scores = draw(150, 220, 9)
    for roc, value in (
        (roc_of(scores), metrics_of(scores, POINT, "binary")["auc"]),
        (
            roc_of_counts(counts_of(scores), "image"),
            metrics_of_counts(counts_of(scores), "image", POINT, "binary")["auc"],
        ),
    ):
        assert np.trapezoid(roc.true_positive_rate, roc.false_positive_rate) == pytest.approx(
            value, abs=1e-12
        )


def test_reliability_bins_hold_every_lesion_and_wilson_intervals() -> None:
    lesions = draw(300, 400, 3).per_lesion()
    bins = reliability(lesions, POINT)
    p = CalibrationMap.of(POINT).probabilities(lesions.triage)
    assert sum(b.n for b in bins) == len(lesions)
    first = p < 1 / 15
    assert bins[0].predicted == pytest.approx(p[first].mean())
    hits = int(lesions.positive[first].sum())
    assert bins[0].observed == pytest.approx(hits / first.sum())
    assert (bins[0].lower, bins[0].upper) == pytest.approx(wilson(hits, int(first.sum())))
    gap = sum(b.n * abs(b.predicted - b.observed) for b in bins) / len(lesions)
    assert metrics_of(lesions, POINT, "binary")["ece"] == pytest.approx(gap)


def test_precision_recall_and_f1_by_hand() -> None:
    """30 of 40 malignant and 20 of 160 benign called: PPV 30/50, F1 60/90 of 50 called and 40 malignant."""
    triage = np.repeat([1.0, -1.0, 1.0, -1.0], [30, 10, 20, 140])
    truth = np.repeat([1, 0], [40, 160])
    names = np.array([f"{i:03d}" for i in range(200)])
    point = operating_point(CalibrationMap(), 0.0, "")
    found = metrics_of(Scores(triage, np.ones(200, int), truth, names), point, "cascade")
    expected = {"sensitivity": 0.75, "ppv": 0.6, "f1": 2 / 3, "accuracy": 0.85}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_paper_whose_f1_does_not_follow_from_its_precision_and_recall() -> None:
    """arXiv 2406.12954 tells precision 0.94, recall 0.77 and F1 0.86; the first two give 0.847."""
    hits, present = 0.77, 1.0
    told = f1(np.array(hits), np.array(hits / 0.94), np.array(present))
    assert float(told) == pytest.approx(0.847, abs=5e-4)


def test_nobody_called_malignant_has_no_precision_and_an_f1_of_zero() -> None:
    scores = draw(80, 80, 2)
    found = metrics_of(scores, operating_point(CalibrationMap(), 11.0, ""), "binary")
    assert (found["ppv"], found["f1"]) == (None, 0.0)
    assert found["accuracy"] == pytest.approx(np.mean(~scores.positive))
