"""Calibration maps: maximum likelihood, limits, and the choice among them."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from fedderm.evaluation.calibration import (
    FEWEST,
    FEWEST_ISOTONIC,
    choose_calibration,
    log_losses,
    rows_of,
    simplest_good,
)
from fedderm.evaluation.calibration_maps import (
    IDENTITY,
    SMALLEST_SLOPE,
    CalibrationMap,
    fit_beta,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    smoothed_targets,
)
from fedderm.evaluation.counts import BIN_CENTRES, bin_of, counts_of
from fedderm.evaluation.documents import OperatingPoint
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


def test_beta_recovers_the_map_that_made_the_data_and_holds_platts() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(0, 3, 60_000)
    true = CalibrationMap("beta", beta=(0.4, 1.3, -0.6))
    positive = rng.random(len(x)) < true.probabilities(x)
    assert fit_beta(x, positive).beta == pytest.approx(true.beta, abs=0.06)
    # With a = b the two terms add up to the logit: ln s - ln(1 - s).
    platt = CalibrationMap("platt", 0.7, 0.2)
    assert CalibrationMap("beta", beta=(0.7, 0.7, 0.2)).logits(x) == pytest.approx(platt.logits(x), abs=1e-12)


def test_a_beta_map_is_stable_at_the_ends_of_the_scale() -> None:
    """ln s = z and ln(1 - s) = -z far out: logit p = a z + c below, b z + c above."""
    found = CalibrationMap("beta", beta=(0.4, 1.3, -0.6)).logits(np.array([-800.0, -24.0, 24.0, 800.0]))
    assert found == pytest.approx([-320.6, -10.2, 30.6, 1039.4], abs=1e-9)
    logits = np.array([-24.0] * 30 + [24.0] * 30)
    fitted = fit_beta(logits, logits > 0)
    assert np.isfinite(fitted.beta).all()
    assert 0.02 < fitted.probabilities(logits).min() < fitted.probabilities(logits).max() < 0.98


def test_an_isotonic_map_rises_between_few_knots_and_never_reaches_0_or_1() -> None:
    data = sample(3000, 2.0, 0.5, 12)
    found = fit_isotonic(data.triage, data.positive)
    where, p = np.array(found.knots).T
    assert 4 < len(where) < 60
    assert np.all(np.diff(where) > 0)
    assert np.all(np.diff(p) > 0)
    n, m = len(data), int(data.positive.sum())
    assert 1 / (n - m + 2) - 1e-12 <= p[0] < p[-1] <= (m + 1) / (m + 2) + 1e-12
    grid = np.linspace(-3, 3, 101)
    assert np.abs(found.probabilities(grid) - expit(2 * grid + 0.5)).max() < 0.12
    # Straight between knots, constant outside.
    assert found.probabilities(where.mean(where=[True, True] + [False] * (len(where) - 2))) == pytest.approx(
        p[:2].mean()
    )
    assert found.probabilities(np.array([-99.0, 99.0])) == pytest.approx([p[0], p[-1]])


def test_isotonic_knots_are_means_of_scikit_learns_steps_and_of_enough_lesions() -> None:
    data = sample(800, 1.0, 0.0, 13)
    order = np.argsort(data.triage)
    x, targets = data.triage[order], smoothed_targets(data.positive)[order]
    level = IsotonicRegression().fit_transform(x, targets)
    every = fit_isotonic(data.triage, data.positive, knot_lesions=1)
    assert [p for _, p in every.knots] == pytest.approx(np.unique(np.round(level, 10)).tolist(), abs=1e-9)
    # Knots of at least 50 lesions: at most 16, and their mean, weighted by lesions, is that of the targets.
    assert 2 <= len(fit_isotonic(data.triage, data.positive, knot_lesions=50).knots) <= 16
    flat = fit_isotonic(data.triage, data.triage < 0)
    assert len(flat.knots) == 1
    assert flat.probabilities(x) == pytest.approx(np.mean(data.triage < 0), abs=0.01)


@pytest.mark.parametrize(
    "one",
    [
        CalibrationMap("temperature", 0.4, 0.0, prior_shift=-1.1),
        CalibrationMap("beta", beta=(0.4, 1.3, -0.6)),
        CalibrationMap("isotonic", knots=((-1.0, 0.1), (2.0, 0.7)), prior_shift=0.5),
    ],
)
def test_a_map_comes_back_from_its_document(one: CalibrationMap) -> None:
    point = OperatingPoint(**one.fields(), threshold=0.0, threshold_probability=0.5, origin="")
    again = CalibrationMap.of(OperatingPoint.model_validate_json(point.model_dump_json()))
    assert again == one
    x = np.linspace(-5, 5, 11)
    assert one.shifted(0.3).logits(x) == pytest.approx(one.logits(x) + 0.3)
    assert np.all(np.diff(again.probabilities(x)) >= 0)


def test_maps_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="knots to isotonic"):
        CalibrationMap("isotonic")
    with pytest.raises(ValueError, match="must ascend and lie between 0 and 1"):
        CalibrationMap("isotonic", knots=((0.0, 0.2), (1.0, 1.0)))


def test_the_simplest_candidate_within_one_standard_error_is_taken() -> None:
    # The standard error of either excess over platt is 0.2 / sqrt(100) = 0.02; the excesses are 0.1 and 0.01.
    noise = np.tile([0.2, -0.2], 50)
    losses = {"keep": 0.6 + noise, "temperature": 0.51 + noise, "platt": np.full(100, 0.5)}
    assert simplest_good(losses) == "temperature"
    assert simplest_good({**losses, "keep": losses["keep"] - 0.085}) == "keep"


def test_a_shape_that_no_straight_map_has_is_found() -> None:
    """Probabilities of a step: 5 % below a logit of 0, 60 % above."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 2, 3000)
    positive = (rng.random(3000) < np.where(x < 0, 0.05, 0.6)).astype(int)
    data = Scores(x, np.ones(3000, int), positive, np.arange(3000).astype(str))
    assert choose_calibration(data, IDENTITY, 0).map.kind == "isotonic"
    few = data.take(np.arange(500))
    assert few.positive.sum() < FEWEST_ISOTONIC
    choice = choose_calibration(few, IDENTITY, 0)
    assert choice.map.kind != "isotonic"
    assert f"isotonic not tried, it needs {FEWEST_ISOTONIC} of each kind" in choice.sentence


def test_a_site_that_differs_in_prevalence_alone_takes_the_map_in_force_with_a_prior_shift() -> None:
    """The map in force holds at a prevalence of 0.4; at this site it is 0.1."""
    keep, kinds = CalibrationMap("platt", 2.0, float(np.log(0.4 / 0.6))), []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        truth = (rng.random(400) < 0.1).astype(int)
        logits = rng.normal(2.0 * truth - 1.0, 1)
        data = Scores(logits, np.ones(400, int), truth, np.arange(400).astype(str))
        found = choose_calibration(data, keep, 0, reference_prevalence=0.4)
        kinds.append((found.map.kind, found.map.slope, found.map.prior_shift < -1))
        assert found.map != keep
    assert kinds.count(("platt", 2.0, True)) > 6
