"""Metrics against scikit-learn, from scores and from counts that add up."""

from typing import Literal

import numpy as np
import pytest
from sklearn import metrics as sk
from test_counts import draw

from fedderm.evaluation.calibration import CalibrationMap
from fedderm.evaluation.counts import UNITS, Counts, counts_of, snap_down
from fedderm.evaluation.metrics import (
    METRICS,
    absent_classes,
    confusion_matrix,
    decisions,
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
        "sensitivity": sk.recall_score(y, called),
        "specificity": sk.recall_score(~y, ~called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
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
    assert metrics_of(scores, POINT, "binary")["auc"] == pytest.approx(
        sk.roc_auc_score(scores.positive, scores.triage)
    )


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
    for name in ("sensitivity", "specificity", "balanced_accuracy", "macro_f1", "referrals_per_1000"):
        assert found[name] == pytest.approx(exact[name], abs=1e-12), name
    bound = counts.auc_error_bound(unit)
    assert bound is not None
    assert bound < 5e-4
    assert abs(found["auc"] - exact["auc"]) <= bound
    assert found["brier"] == pytest.approx(exact["brier"], abs=2e-4)
    assert found["ece"] == pytest.approx(exact["ece"], abs=5e-3)


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
        "sensitivity",
        "balanced_accuracy",
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
