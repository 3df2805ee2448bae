"""Curves from counts equal scikit-learn's on the pooled scores; decisions at an edge are exact."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve as reference_calibration
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
)

from fedderm.counts_file import read_counts, write_counts
from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.counts import BIN_CENTRES, EVERYTHING, Counts, bin_of, counts_of, snap_down
from fedderm.evaluation.curves import (
    Decisions,
    auc_of_counts,
    calibration_curve,
    decision_curve,
    decisions_at,
    precision_recall,
)
from fedderm.evaluation.documents import Unit
from fedderm.evaluation.scores import Scores

PLATT = CalibrationMap("platt", slope=1.4, intercept=-0.6)
MAPS = [
    PLATT,
    CalibrationMap(),
    CalibrationMap("beta", beta=(1.2, 0.7, -0.3)),
    CalibrationMap("isotonic", knots=((-2.0, 0.02), (0.0, 0.3), (1.5, 0.3), (3.0, 0.9))),
]


def site(seed: int, lesions: int = 900, spread: float = 1.5, prevalence: float = 0.2) -> Scores:
    """Return the scores of a site with one to three images a lesion."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(lesions) < prevalence, rng.integers(1, 4, lesions), 0)
    rows = np.repeat(np.arange(lesions), rng.integers(1, 4, lesions))
    logits = rng.normal(1.2 * (truth > 0) - 1, spread)[rows] + rng.normal(0, 0.3, len(rows))
    names = np.array([f"{seed}-{row}" for row in rows])
    return Scores(logits, rng.integers(1, 4, len(rows)), truth[rows], names)


PARTS = [site(1), site(2, prevalence=0.05), site(3, lesions=300, prevalence=0.5)]
POOLED = sum((counts_of(part) for part in PARTS), Counts.zero())


def pooled(unit: Unit) -> Scores:
    scores = Scores.join(*PARTS)
    return scores.per_lesion() if unit == "lesion" else scores


@pytest.mark.parametrize("unit", ["image", "lesion"])
@pytest.mark.parametrize("threshold", [EVERYTHING, -1.5, snap_down(-0.123), 0.0, snap_down(2.31), 24.0])
def test_decisions_at_an_edge_are_those_of_the_pooled_scores(unit: Unit, threshold: float) -> None:
    scores = pooled(unit)
    called = scores.triage >= threshold
    (tn, fp), (fn, tp) = confusion_matrix(scores.positive, called, labels=[False, True])
    found = decisions_at(POOLED, unit, threshold)
    assert (found.found, found.alarms, found.malignant, found.benign) == (tp, fp, tp + fn, tn + fp)
    assert found.sensitivity == tp / (tp + fn)
    assert found.specificity == tn / (tn + fp)
    assert found.ppv == (tp / (tp + fp) if tp + fp else None)
    assert found.npv == (tn / (tn + fn) if tn + fn else None)
    assert found.referrals_per_1000 == pytest.approx(1000 * called.mean())
    # Vickers and Elkin's formula, p = 0.1: an odds of one to nine.
    assert found.net_benefit(0.1) == pytest.approx((tp - fp / 9) / len(scores))


@pytest.mark.parametrize("spread", [0.6, 1.5, 3.0])
@pytest.mark.parametrize("unit", ["image", "lesion"])
def test_auc_is_the_pooled_scores_to_a_thousandth(unit: Unit, spread: float) -> None:
    parts = [site(seed, spread=spread) for seed in (4, 5)]
    counts = counts_of(parts[0]) + counts_of(parts[1])
    scores = Scores.join(*parts)
    rows = scores.per_lesion() if unit == "lesion" else scores
    exact, found, bound = (
        roc_auc_score(rows.positive, rows.triage),
        auc_of_counts(counts, unit),
        counts.auc_error_bound(unit),
    )
    assert found is not None
    assert bound is not None
    assert abs(found - exact) <= bound < 1e-3


@pytest.mark.parametrize("unit", ["image", "lesion"])
def test_precision_recall_is_scikit_learns(unit: Unit) -> None:
    scores = pooled(unit)
    found = precision_recall(POOLED, unit)
    assert found is not None
    # On the bins' centres equal; on the raw scores within what the ties of a bin cost.
    centres = BIN_CENTRES[bin_of(scores.triage)]
    precision, recall, _ = precision_recall_curve(scores.positive, centres)
    np.testing.assert_allclose(found.precision, precision[-2::-1])
    np.testing.assert_allclose(found.recall, recall[-2::-1])
    exact = average_precision_score(scores.positive, scores.triage)
    assert found.average_precision == pytest.approx(average_precision_score(scores.positive, centres))
    assert found.average_precision == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize("calibration", MAPS, ids=lambda one: one.kind)
def test_net_benefit_is_that_of_the_scores_within_a_bin(calibration: CalibrationMap) -> None:
    scores = pooled("lesion")
    p, y = calibration.probabilities(scores.triage), scores.positive
    grid = np.array([0.021, 0.05, 0.13, 0.29, 0.5, 0.8])
    curve = decision_curve(POOLED, "lesion", calibration, grid)
    assert curve is not None
    for one, model, everyone in zip(grid, curve.model, curve.everyone, strict=True):
        odds = one / (1 - one)
        exact = np.mean(np.where(p >= one, np.where(y, 1.0, -odds), 0.0))
        in_a_bin = np.mean(np.abs(bin_of(scores.triage) - bin_of(_where(calibration, one))) <= 1)
        assert model == pytest.approx(exact, abs=in_a_bin * max(1, odds) + 1e-12)
        assert everyone == pytest.approx(y.mean() - (1 - y.mean()) * odds)


def _where(calibration: CalibrationMap, p: float) -> float:
    """Return the lowest logit with at least probability p, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(80):
        middle = (low + high) / 2
        reached = float(calibration.probabilities(np.array(middle))) >= p
        low, high = (low, middle) if reached else (middle, high)
    return high


def test_net_benefit_of_a_threshold_is_the_curve_at_its_probability() -> None:
    threshold = snap_down(-0.4)
    p = float(PLATT.probabilities(np.array(threshold)))
    curve = decision_curve(POOLED, "lesion", PLATT, [p])
    assert curve is not None
    assert decisions_at(POOLED, "lesion", threshold).net_benefit(p) == pytest.approx(curve.model[0])


@pytest.mark.parametrize(("spacing", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_calibration_curve_is_scikit_learns_on_the_bin_centres(spacing: str, strategy: str) -> None:
    scores = pooled("lesion")
    p = PLATT.probabilities(BIN_CENTRES[bin_of(scores.triage)])
    observed, predicted = reference_calibration(scores.positive, p, n_bins=15, strategy=strategy)
    found = calibration_curve(POOLED, "lesion", PLATT, "width" if spacing == "width" else "mass")
    assert sum(one.n for one in found) == len(scores)
    assert len(found) == len(observed)
    # Quantile bins may divide at another of two neighbouring lesions; fifteen bins of equal width may not.
    close = 1e-12 if spacing == "width" else 0.02
    np.testing.assert_allclose([one.predicted for one in found], predicted, atol=close)
    np.testing.assert_allclose([one.observed for one in found], observed, atol=close)
    assert all(one.lower <= one.observed <= one.upper for one in found)
    if spacing == "mass":
        sizes = [one.n for one in found]
        assert max(sizes) - min(sizes) <= 0.1 * max(sizes)


def test_absent_classes_and_empty_counts_have_no_rates() -> None:
    benign = counts_of(site(7, prevalence=0.0))
    found = decisions_at(benign, "lesion", 0.0)
    assert found.sensitivity is None
    assert found.specificity is not None
    assert auc_of_counts(benign, "lesion") is None
    assert precision_recall(benign, "lesion") is None
    nothing = Decisions(found=0, malignant=0, alarms=0, benign=0)
    assert (nothing.npv, nothing.ppv, nothing.referrals_per_1000, nothing.net_benefit(0.2)) == (None,) * 4
    assert decision_curve(Counts.zero(), "image", PLATT, [0.2]) is None
    assert calibration_curve(Counts.zero(), "image", PLATT, "mass") == []


def test_thresholds_off_an_edge_and_impossible_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="not on a bin edge"):
        decisions_at(POOLED, "lesion", 0.0001)
    with pytest.raises(ValueError, match="from 0 to below 1, found 1"):
        decisions_at(POOLED, "lesion", 0.0).net_benefit(1.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        decision_curve(POOLED, "lesion", PLATT, [0.0, 0.5])


@settings(max_examples=25, deadline=None)
@given(st.floats(-6, 6))
def test_decisions_add_up_over_sites(threshold: float) -> None:
    edge = snap_down(threshold)
    apart = [decisions_at(counts_of(part), "image", edge) for part in PARTS]
    pool = decisions_at(POOLED, "image", edge)
    assert (sum(one.found for one in apart), sum(one.alarms for one in apart)) == (pool.found, pool.alarms)


def test_counts_come_back_from_the_file(tmp_path: Path) -> None:
    counts = {f"clinic/{name}/test": counts_of(part) for name, part in zip("äb<", PARTS, strict=True)}
    path = tmp_path / "counts.npz"
    write_counts(path, counts)
    found = read_counts(path)
    assert list(found) == list(counts)
    assert all(np.array_equal(found[key].cells, counts[key].cells) for key in counts)
    assert [one.name for one in tmp_path.iterdir()] == ["counts.npz"]


def test_a_damaged_counts_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "counts.npz"
    write_counts(path, {"a/test": POOLED})
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], b"", b"nothing", bytes(broken)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"counts\.npz cannot be read as the counts of a run's sites"):
            read_counts(path)
    np.savez(path, **{"a/test": np.zeros((2, 3), np.int32)})
    with pytest.raises(ValueError, match="expected an array of shape"):
        read_counts(path)
    np.savez(path, **{"a/test": np.array([{}])})
    with pytest.raises(ValueError, match="pickle"):
        read_counts(path)
    with pytest.raises(ValueError, match="site/split, found 'alone'"):
        write_counts(path, {"alone": POOLED})
