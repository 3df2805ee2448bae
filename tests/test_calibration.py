"""Calibration maps: maximum likelihood, limits, and the choice among them."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from fedderm.evaluation.calibration import (
    FEWEST,
    IDENTITY,
    SMALLEST_SLOPE,
    CalibrationMap,
    choose_calibration,
    fit_platt,
    fit_temperature,
    log_losses,
    rows_of,
    smoothed_targets,
)
from fedderm.evaluation.counts import BIN_CENTRES, bin_of, counts_of
from fedderm.evaluation.scores import Scores


def sample(n: int, slope: float, intercept: float, seed: int) -> Scores:
    """Lesions whose true probability is ``sigmoid(slope * logit + intercept)``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, n)
    positive = rng.random(n) < expit(slope * logits + intercept)
    return Scores(logits, np.ones(n, int), positive.astype(int), np.arange(n).astype(str))


def test_platt_equals_logistic_regression_on_smoothed_targets() -> None:
    """A soft target t is a positive of weight t and a negative of weight 1 - t."""
    data = sample(300, 0.6, -0.5, 1)
    targets = smoothed_targets(data.positive)
    x, y = np.tile(data.triage, 2)[:, None], np.repeat([1, 0], 300)
    theirs = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(
        x, y, np.concatenate([targets, 1 - targets])
    )
    ours = fit_platt(data.triage, data.positive)
    assert ours.slope == pytest.approx(theirs.coef_[0, 0], rel=1e-5)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], rel=1e-5)


def test_temperature_is_the_best_slope_through_the_origin() -> None:
    data = sample(300, 0.4, 0.0, 2)
    targets = smoothed_targets(data.positive)
    grid = np.linspace(0.2, 0.8, 2001)
    losses = [np.mean(np.logaddexp(0, a * data.triage) - targets * a * data.triage) for a in grid]
    found = fit_temperature(data.triage, data.positive)
    assert found.slope == pytest.approx(grid[int(np.argmin(losses))], abs=4e-4)
    assert found.intercept == 0


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -1.0), (1.0, 0.0), (2.0, 1.5)])
def test_platt_recovers_the_map_that_made_the_data(slope: float, intercept: float) -> None:
    data = sample(40_000, slope, intercept, 3)
    found = fit_platt(data.triage, data.positive)
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept), abs=0.06 * slope + 0.03)


def test_separable_data_do_not_blow_up() -> None:
    logits, positive = np.array([-2.0, -1.0, 1.0, 2.0]), np.array([False, False, True, True])
    for fit in (fit_temperature, fit_platt):
        found = fit(logits, positive)
        assert np.isfinite([found.slope, found.intercept]).all()
        # Targets are 3/4 and 1/4: no probability goes beyond what two lesions can say by far.
        assert 0.05 < found.probabilities(logits).min() < found.probabilities(logits).max() < 0.95


def test_order_is_never_turned_around() -> None:
    logits = np.linspace(-2, 2, 50)
    for fit in (fit_temperature, fit_platt):
        assert fit(logits, logits < 0).slope == pytest.approx(SMALLEST_SLOPE)


@pytest.mark.parametrize("fit", [fit_temperature, fit_platt])
def test_degenerate_data_give_finite_maps(fit) -> None:  # type: ignore[no-untyped-def]
    assert fit(np.empty(0), np.empty(0, bool)) == IDENTITY
    for logits in (np.zeros(5), np.array([0.3]), np.linspace(-1, 1, 7)):
        found = fit(logits, np.zeros(len(logits), bool))
        assert np.isfinite([found.slope, found.intercept]).all()
        assert found.slope > 0


def test_counts_give_the_same_fit_as_scores_at_bin_centres_and_nearly_as_scores() -> None:
    data = sample(500, 0.7, -0.3, 5)
    logits, positive = rows_of(counts_of(data))
    assert sorted(logits) == sorted(BIN_CENTRES[bin_of(data.triage)])
    binned, exact = fit_platt(logits, positive), fit_platt(data.triage, data.positive)
    assert (binned.slope, binned.intercept) == pytest.approx((exact.slope, exact.intercept), abs=1e-3)


def test_the_choice_improves_a_badly_calibrated_model() -> None:
    data, fresh = sample(600, 0.4, -1.2, 6), sample(5000, 0.4, -1.2, 7)
    choice = choose_calibration(data, IDENTITY, 0)
    assert choice.map.kind == "platt"
    assert "600 lesions" in choice.sentence
    better = log_losses(choice.map.logits(fresh.triage), fresh.positive).mean()
    truth = log_losses(0.4 * fresh.triage - 1.2, fresh.positive).mean()
    assert truth <= better < truth + 0.005
    assert log_losses(fresh.triage, fresh.positive).mean() > better + 0.1


def test_a_pure_temperature_is_found_more_often_than_not() -> None:
    kinds = [choose_calibration(sample(300, 0.4, 0.0, seed), IDENTITY, 0).map.kind for seed in range(20)]
    assert kinds.count("temperature") > 10
    assert "identity" not in kinds


def test_a_good_map_in_force_mostly_stays() -> None:
    keep = CalibrationMap("platt", 0.5, -1.0)
    chosen = [choose_calibration(sample(120, 0.5, -1.0, seed), keep, 0).map for seed in range(20)]
    assert chosen.count(keep) > 10


def test_too_few_lesions_keep_the_map_and_say_how_many_there_are() -> None:
    data = sample(200, 1, 0, 8)
    few = data.take(
        np.concatenate([np.flatnonzero(data.positive)[: FEWEST - 1], np.flatnonzero(~data.positive)])
    )
    keep = CalibrationMap("temperature", 0.5, 0.0)
    choice = choose_calibration(few, keep, 0)
    assert choice.map == keep
    assert choice.sentence.startswith("the temperature calibration stays: 9 malignant and")
    assert choose_calibration(Scores.empty(), keep, 0).map == keep


def test_the_choice_depends_on_lesions_not_on_images_or_their_order() -> None:
    data = sample(150, 0.5, -0.5, 9)
    repeated = Scores.join(data, data.take(np.arange(40)), data.take(np.arange(40)))
    shuffled = repeated.take(np.random.default_rng(0).permutation(len(repeated)))
    one, two = choose_calibration(data, IDENTITY, 3).map, choose_calibration(shuffled, IDENTITY, 3).map
    assert one.kind == two.kind
    assert (one.slope, one.intercept) == pytest.approx((two.slope, two.intercept), abs=1e-9)
