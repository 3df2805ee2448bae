"""Means and differences over seeds and lesions: by hand, limits, other implementations, simulation."""

import sys
from math import inf, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import f, t, ttest_1samp, ttest_rel

from fedderm.evaluation.arm_ranks import arm_ranks, share_of_worst
from fedderm.evaluation.arms import MEAN, WORST, arm_differences, arm_means, places_of
from fedderm.evaluation.comparison import delong_test, paired_differences
from fedderm.evaluation.documents import OperatingPoint
from fedderm.evaluation.intervals import lesion_weights
from fedderm.evaluation.lesion_draws import COMPARED, Judged, SiteDraws, draw_site
from fedderm.evaluation.metrics import metrics_of
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.scores import Floats, Scores
from fedderm.evaluation.seed_variance import mean_over_seeds, pseudo_values

# The benchmarks are not part of the installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.comparison import AT_ONCE, METHODS, World, shares

POINT = OperatingPoint(
    calibration="platt", slope=1.2, intercept=-0.3, threshold=0.4, threshold_probability=0.5, origin="chosen"
)


def scores(seed: int, malignant: int = 40, benign: int = 90, gain: float = 0.0, own: float = 0.6) -> Scores:
    """A model's scores: what is hard for one model is for all, and each has an opinion of its own."""
    truth = np.repeat([1, 0], [malignant, benign])
    shared = np.random.default_rng(malignant * 1000 + benign).normal(0, 1, len(truth))
    logits = (1.4 + gain) * truth + shared + np.random.default_rng(seed).normal(0, own, len(truth))
    return Scores(logits, np.ones(len(truth), int), truth, np.array([f"{i:04d}" for i in range(len(truth))]))


def site(name: str = "a", arms: tuple[str, ...] = ("ref", "new"), seeds: int = 4, **made: int) -> SiteDraws:
    judged = {
        (arm, seed): Judged(scores(100 * place + seed, **made), POINT)
        for place, arm in enumerate(arms)
        for seed in range(seeds)
    }
    return draw_site(name, judged, arms, range(seeds), resamples=800, seed=3)


def test_values_are_those_of_single_models() -> None:
    found = site()
    for seed in range(4):
        expected = metrics_of(scores(100 + seed), POINT, "binary")
        for name in COMPARED:
            assert found.values[name][1, seed] == pytest.approx(expected[name])
    # The same draws, one by one, weigh the same rows.
    weights = np.concatenate(
        list(lesion_weights(scores(0).truth, 800, np.random.default_rng(3), rescaled=True))
    )
    for draw in (0, 17):
        again = metrics_of(scores(102), POINT, "binary", weights[draw])
        assert found.replicates["auc"][1, 2, draw] == pytest.approx(again["auc"])
        assert found.replicates["ece"][1, 2, draw] == pytest.approx(again["ece"])


def test_rescaled_draws_have_the_variance_of_a_mean_and_whole_ones_too_little() -> None:
    """Of 5 values 0..4: their sample variance 2.5 / 5 = 0.5; drawing 5 of 5 gives 4 / 5 of it."""
    classes, values = np.zeros(5, np.int64), np.arange(5.0)
    for rescaled, expected in ((True, 0.5), (False, 0.4)):
        drawn = list(lesion_weights(classes, 40_000, np.random.default_rng(1), rescaled=rescaled))
        means = np.concatenate(drawn) @ values / 5
        assert means.var() == pytest.approx(expected, rel=0.03)
        assert np.concatenate(drawn).sum(axis=1) == pytest.approx(5)
    single = next(lesion_weights(np.array([0, 1, 1]), 50, np.random.default_rng(1), rescaled=True))
    assert (single[:, 0] == 1).all()


def test_the_error_is_that_of_obuchowski_and_rockette() -> None:
    """Two seeds. Replicates by hand: variances 1 and 4, covariance 1 over the four draws.

    Mean of the off-diagonal covariances 1, sample variance of the values (0, 6): 18. Squared error
    1 + 18 / 2 = 10; freedom 100 / (9^2 / 1 + 1^2 / (11 - 1)).
    """
    x, y = np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, -1.0, 1.0, -1.0])
    one = x * sqrt(3 / 4)  # the sample variance of x is 4 / 3
    two = (x + sqrt(3) * y) * sqrt(3 / 4)
    replicates = np.stack([one, two])
    assert np.cov(replicates) == pytest.approx(np.array([[1, 1], [1, 4]]))
    found = mean_over_seeds(np.array([0.0, 6.0]), replicates, 11)
    assert found.value == 3
    assert found.error == pytest.approx(sqrt(10))
    assert found.degrees == pytest.approx(100 / (81 + 0.1))
    lower, upper = found.interval() or (0, 0)
    assert upper - lower == pytest.approx(2 * t.ppf(0.975, found.degrees) * sqrt(10))
    # Values closer than single lesions alone make them: the error is that of the lesions, 1 + 1.5 / 2.
    assert mean_over_seeds(np.array([0.0, 0.1]), replicates, 11).error == pytest.approx(sqrt(1 + 1.5 / 2))


def test_it_is_the_f_test_of_a_study_with_two_modalities() -> None:
    """Obuchowski and Rockette's F with Hillis' freedom, from mean squares and covariances: F = t squared."""
    rng, seeds = np.random.default_rng(8), 5
    shared, own = rng.normal(0, 0.02, (2, 1, 3000)), rng.normal(0, 0.01, (2, seeds, 3000))
    values, replicates = rng.normal([[0.8], [0.85]], 0.03, (2, seeds)), shared + own
    of_arm, of_seed = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    treatment = seeds * ((of_arm - values.mean()) ** 2).sum()
    interaction = ((values - of_arm - of_seed + values.mean()) ** 2).sum() / (seeds - 1)
    covariance = np.cov(replicates.reshape(2 * seeds, -1)).reshape(2, seeds, 2, seeds)
    other = ~np.eye(seeds, dtype=bool)
    second = np.mean([covariance[arm, :, arm][other] for arm in (0, 1)])
    third = np.mean([covariance[0, :, 1][other], covariance[1, :, 0][other]])
    error = interaction + seeds * (second - third)
    degrees = error**2 / (interaction**2 / (seeds - 1))
    found = mean_over_seeds(values[1] - values[0], replicates[1] - replicates[0], 10**9)
    assert found.error is not None
    assert (found.value / found.error) ** 2 == pytest.approx(treatment / error)
    assert found.degrees == pytest.approx(degrees)
    assert found.p_value() == pytest.approx(f.sf(treatment / error, 1, degrees))


def test_without_variance_of_lesions_it_is_the_t_test_over_seeds() -> None:
    rng = np.random.default_rng(4)
    one, two = rng.normal(0.8, 0.02, (2, 6))
    apart = two - one
    found = mean_over_seeds(apart, np.repeat(apart[:, None], 300, axis=1), 50)
    expected = ttest_rel(two, one)
    assert found.degrees == pytest.approx(5)
    assert found.p_value() == pytest.approx(expected.pvalue)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert ttest_1samp(apart, 0).pvalue == pytest.approx(found.p_value())


def test_one_seed_carries_the_lesions_alone_and_makes_no_claim() -> None:
    draws = site(seeds=1, malignant=150, benign=300)
    (place,) = places_of({"held-out": [draws]})
    (found,) = arm_differences([place], ["auc"], {"new": "ref"})
    first, second = scores(0, 150, 300), scores(100, 150, 300)
    delong = delong_test(first, second).difference
    boot = paired_differences(first, second, (POINT, POINT), "binary", resamples=800, seed=5)["lesion"]["auc"]
    for other in (delong, boot):
        assert found.estimate.value == pytest.approx(other.value)
        assert (found.estimate.lower, found.estimate.upper) == pytest.approx(
            (other.lower, other.upper), abs=0.006
        )
    assert (found.p, found.p_holm, found.seeds) == (None, None, 1)


def test_an_arm_that_decides_alike_differs_by_exactly_nothing() -> None:
    same = {(arm, seed): Judged(scores(seed), POINT) for arm in ("ref", "new") for seed in range(3)}
    draws = draw_site("a", same, ("ref", "new"), range(3), resamples=200)
    for found in arm_differences(places_of({"train": [draws]}), COMPARED, {"new": "ref"}):
        assert (found.estimate.value, found.estimate.lower, found.p, found.p_holm) == (0.0, None, None, None)


def test_seeds_that_do_not_vary_leave_the_lesions() -> None:
    judged = {
        (arm, seed): Judged(scores(place), POINT)
        for place, arm in enumerate(("ref", "new"))
        for seed in range(5)
    }
    five = draw_site("a", judged, ("ref", "new"), range(5), resamples=400, seed=1)
    one = draw_site(
        "a",
        {key: one for key, one in judged.items() if key[1] == 0},
        ("ref", "new"),
        [0],
        resamples=400,
        seed=1,
    )
    (with_five,), (with_one,) = (
        arm_differences(places_of({"train": [draws]}), ["auc"], {"new": "ref"}) for draws in (five, one)
    )
    assert with_five.estimate.lower == pytest.approx(with_one.estimate.lower)
    assert with_five.p is not None


def test_missing_seeds_are_paired_away() -> None:
    judged = {
        (arm, seed): Judged(scores(100 * place + seed), POINT)
        for place, arm in enumerate(("ref", "new"))
        for seed in range(4)
    }
    del judged["new", 1], judged["ref", 3]
    draws = draw_site("a", judged, ("ref", "new"), range(4), resamples=200)
    (place,) = places_of({"train": [draws]})
    (found,) = arm_differences([place], ["auc"], {"new": "ref"})
    values = draws.values["auc"]
    assert found.seeds == 2
    assert found.estimate.value == pytest.approx((values[1, [0, 2]] - values[0, [0, 2]]).mean())
    means = {one.arm: one for one in arm_means([place], ["auc"], ("ref", "new"))}
    assert (means["ref"].seeds, means["new"].seeds) == (3, 3)
    assert means["new"].estimate.value == pytest.approx(np.nanmean(values[1]))


def test_few_lesions_have_no_interval_and_count_in_no_mean() -> None:
    sites = [site("a"), site("b", malignant=30), site("few", malignant=9)]
    places = {place.name: place for place in places_of({"held-out": sites})}
    assert [one.site for one in places[MEAN].draws] == ["a", "b"]
    means = {(m.place.name, m.metric): m.estimate for m in arm_means(places.values(), COMPARED, ["new"])}
    assert means["few", "auc"].lower is None
    assert means["few", "sensitivity"].lower is None
    assert means["few", "specificity"].lower is not None
    both = [means[name, "auc"].value for name in ("a", "b")]
    assert means[MEAN, "auc"].value == pytest.approx(np.mean(both))
    assert means[WORST, "auc"].value == pytest.approx(min(both))
    assert arm_ranks({"held-out": sites[2:]}, ["ref", "new"]) == []
    assert share_of_worst([sites[0], sites[2]], "new") == {}


def test_all_found_by_all_seeds_has_wilsons_interval() -> None:
    always = POINT.model_copy(update={"threshold": -50.0})
    judged = {("ref", seed): Judged(scores(seed), always) for seed in range(3)}
    draws = draw_site("a", judged, ("ref",), range(3), resamples=200)
    (found,) = arm_means(places_of({"train": [draws]}), ["sensitivity"], ["ref"])
    assert found.estimate.value == 1
    assert (found.estimate.lower, found.estimate.upper) == pytest.approx(wilson(40, 40))


def test_intervals_of_a_mean_stay_between_0_and_1() -> None:
    high = mean_over_seeds(np.array([0.99, 0.97, 0.999]), np.full((3, 50), 0.98), 20)
    lower, upper = high.logit_interval() or (0, 2)
    assert 0 < lower < high.value < upper < 1
    plain = high.interval()
    assert plain is not None
    assert plain[1] > 1
    assert mean_over_seeds(np.array([0.5, 0.5]), np.full((2, 9), 0.5), 20).error is None
    assert mean_over_seeds(np.array([0.5, 0.7]), None, 20).degrees == inf
    with pytest.raises(ValueError, match="found none"):
        mean_over_seeds(np.empty(0), None, 20)


def test_the_worst_site_is_the_lowest_mean_and_varies_as_that_site_does() -> None:
    rng = np.random.default_rng(2)
    values = np.stack([rng.normal(0.9, 0.01, 5), rng.normal(0.6, 0.01, 5)])
    assert pseudo_values(values) == pytest.approx(values[1])
    assert pseudo_values(values[:, :1]) == pytest.approx(values[1, :1])
    assert pseudo_values(values[1:]) == pytest.approx(values[1])
    # Two sites that change places: means 0.75 and 0.7; without the second seed 0.5, without the first 0.7.
    tied = np.array([[0.5, 1.0], [0.7, 0.7]])
    assert pseudo_values(tied) == pytest.approx([2 * 0.7 - 0.7, 2 * 0.7 - 0.5])


def test_ranks_by_hand() -> None:
    """Two sites, two seeds, three arms; ties share their ranks."""
    first = np.array([[0.9, 0.9], [0.8, 0.9], [0.7, 0.6]])  # ranks: 1 1.5 / 2 1.5 / 3 3
    second = np.array([[0.6, 0.5], [0.8, 0.7], [0.7, 0.6]])  # ranks: 3 3 / 1 1 / 2 2
    sites = [_of(values, name) for values, name in ((first, "a"), (second, "b"))]
    found = {one.arm: one for one in arm_ranks({"train": sites}, ["x", "y", "z"])}
    expected = {"x": (1 + 1.5 + 3 + 3) / 4, "y": (2 + 1.5 + 1 + 1) / 4, "z": 2.5}
    assert {arm: one.estimate.value for arm, one in found.items()} == pytest.approx(expected)
    assert list(found) == ["y", "x", "z"]
    assert (found["x"].sites, found["x"].seeds, found["x"].arms) == (2, 2, 3)
    first[2, 1] = np.nan  # arm z lacks the second seed: nobody is ranked on it
    assert arm_ranks({"train": [_of(first, "a"), sites[1]]}, ["x", "y", "z"])[0].seeds == 1


def test_which_site_is_the_worst_how_often() -> None:
    low, high = np.full((1, 3), 0.6), np.full((1, 3), 0.9)
    assert share_of_worst([_of(low, "low"), _of(high, "high")], "x") == {"low": 1.0, "high": 0.0}
    noisy = _of(low, "noisy", spread=0.05), _of(low, "other", spread=0.05)
    shares_found = share_of_worst(noisy, "x")
    assert sum(shares_found.values()) == pytest.approx(1)
    assert 0.35 < shares_found["noisy"] < 0.65


def _of(values: Floats, name: str, spread: float = 0.0) -> SiteDraws:
    noise = np.random.default_rng([ord(c) for c in name]).normal(0, spread, (*values.shape, 400))
    arms = tuple("xyz"[: len(values)])
    seeds = tuple(range(values.shape[1]))
    return SiteDraws(name, 100, 40, arms, seeds, {"auc": values}, {"auc": values[..., None] + noise})


def test_other_lesions_are_refused() -> None:
    judged = {("ref", 1): Judged(scores(1), POINT), ("new", 1): Judged(scores(2, benign=91), POINT)}
    with pytest.raises(ValueError, match="site a: arm new with seed 1 and arm ref with seed 1 judged other"):
        draw_site("a", judged, ("ref", "new"), [1])
    with pytest.raises(ValueError, match="no model"):
        draw_site("a", {}, ("ref",), [1])


def test_holm_counts_single_sites_apart_from_means() -> None:
    sites = [site("a"), site("b", malignant=30)]
    found = arm_differences(places_of({"held-out": sites}), ["auc"], {"new": "ref"})
    p = {one.place.name: one.p for one in found}
    holm = {one.place.name: one.p_holm for one in found}
    smaller, larger = sorted(("a", "b"), key=lambda name: p[name] or 0)
    assert holm[smaller] == pytest.approx(min(1, 2 * (p[smaller] or 0)))
    assert holm[larger] == pytest.approx(max(holm[smaller] or 0, p[larger] or 0))
    least = min(p[MEAN] or 0, p[WORST] or 0)
    assert min(holm[MEAN] or 0, holm[WORST] or 0) == pytest.approx(min(1, 2 * least))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_both_variances_hold_their_level_and_one_alone_does_not(seeds: int) -> None:
    """300 comparisons of three arms at three sites, none of which differs, seeds with an SD of 0.02 of AUC.

    Nine intervals a comparison share lesions and reference, so the share covered has at most the standard
    error of 300 independent ones.
    """
    runs = 300
    error = sqrt(0.05 * 0.95 / runs)
    found = shares(World(seeds, spread=0.02, sites=3), runs, resamples=200, seed=11)
    assert set(found.covered) == {*METHODS, *AT_ONCE}
    for ours in ("both", *AT_ONCE):
        assert found.covered[ours] > 0.95 - 3 * error, ours
        assert found.false_claims[ours] < 0.05 + 3 * error, ours
    assert found.covered["both"] < 0.95 + 3 * error
    assert found.false_claims["one seed"] > 0.05 + 3 * error
    assert found.covered["one seed"] < 0.95 - 3 * error
    assert found.covered["t test"] < 0.95 - 2 * error


def test_a_ppv_that_a_draw_leaves_undefined_has_a_value_and_no_interval() -> None:
    """Only the highest score is called malignant: in many draws of lesions it is not there."""
    judged = {}
    for seed in range(2):
        found = scores(seed)
        top = float(np.sort(found.triage)[-1])
        judged["one", seed] = Judged(found, POINT.model_copy(update={"threshold": top}))
    draws = draw_site("a", judged, ["one"], range(2), resamples=200, seed=3)
    assert np.isnan(draws.replicates["ppv"]).any()
    means = {one.metric: one for one in arm_means(places_of({"train": [draws]}), COMPARED, ["one"])}
    assert means["ppv"].estimate.value is not None
    assert means["ppv"].estimate.lower is None
    assert means["f1"].estimate.lower is not None
