"""Intervals: proportions, the bootstrap of lesions, and replicates that add up over sites."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import average_precision_score, roc_auc_score
from test_counts import draw

from fedderm.evaluation.calibration import CalibrationMap
from fedderm.evaluation.counts import BIN_CENTRES, EVERYTHING, UNITS, Counts, counts_of, snap_down
from fedderm.evaluation.disclosure import told, understood
from fedderm.evaluation.documents import Estimate, Unit
from fedderm.evaluation.intervals import bootstrap, lesion_weights, performance
from fedderm.evaluation.metrics import calibration_table, metrics_of
from fedderm.evaluation.proportions import auc_interval, clopper_pearson, wilson
from fedderm.evaluation.ranking import weighted_ranking
from fedderm.evaluation.recalibration import operating_point, site_seed
from fedderm.evaluation.replicates import (
    COARSE_BINS,
    coarse_edges,
    pooled_intervals,
    replicate_histograms,
    replicate_metrics,
    site_replicates,
    sum_replicates,
)
from fedderm.evaluation.scores import Floats, Scores

POINT = operating_point(CalibrationMap("platt", 1.3, -0.4), snap_down(-0.37), "chosen for the test")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (57, 120), (1, 1)])
def test_proportions_equal_scipys(hits: int, n: int) -> None:
    theirs = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    exact = binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(hits, n) == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize(("value", "m", "n"), [(0.9, 5, 50), (0.62, 3, 400), (1.0, 2, 50), (0.0, 7, 4)])
def test_the_ends_of_an_aucs_interval_solve_newcombes_equation(value: float, m: int, n: int) -> None:
    for end in auc_interval(value, m, n):
        if end in (0.0, 1.0):
            assert end == value
            continue
        mean = (m + n) / 2 - 1
        variance = end * (1 - end) / (m * n) * (1 + mean * (1 - end) / (2 - end) + mean * end / (1 + end))
        assert abs(end - value) == pytest.approx(1.959964 * variance**0.5, rel=1e-5)
    low, high = auc_interval(1 - value, m, n)
    assert auc_interval(value, m, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_an_auc_of_no_lesions_is_refused() -> None:
    with pytest.raises(ValueError, match="one or more of either class"):
        auc_interval(0.5, 0, 9)
    with pytest.raises(ValueError, match="AUC from 0 to 1"):
        auc_interval(1.5, 3, 9)


@pytest.mark.parametrize("positives", [2, 3, 9])
def test_few_malignant_lesions_get_an_aucs_interval_that_covers(positives: int) -> None:
    """Binormal lesions with an AUC of 0.85, of which a bootstrap covers 67 % with 2 malignant ones."""
    rng_, covered, runs = rng(positives), 0, 800
    for _ in range(runs):
        malignant, benign = rng_.normal(norm.ppf(0.85) * 2**0.5, 1, positives), rng_.normal(0, 1, 100)
        lower, upper = auc_interval(float((malignant[:, None] > benign).mean()), positives, 100)
        covered += lower <= 0.85 <= upper
    assert covered / runs > 0.95 - 3 * (0.95 * 0.05 / runs) ** 0.5


def test_no_trial_says_nothing_and_impossible_hits_are_refused() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="0 <= hits <= n"):
        wilson(3, 2)


def test_every_replicate_draws_each_class_as_often_as_it_is_there() -> None:
    classes = np.array([0] * 7 + [1] * 2 + [3] * 4)
    weights = np.concatenate(list(lesion_weights(classes, 300, rng())))
    assert weights.shape == (300, 13)
    for c in (0, 1, 3):
        assert np.all(weights[:, classes == c].sum(axis=1) == (classes == c).sum())
    # Each lesion is drawn once on average, with the variance 1 - 1/n of a multinomial.
    assert weights[:, :7].mean() == pytest.approx(1, abs=1e-12)
    assert weights[:, :7].var() == pytest.approx(1 - 1 / 7, abs=0.06)


def test_replicates_equal_metrics_of_resampled_rows() -> None:
    """A plain loop: repeat each lesion's images as often as it was drawn; compute that table's metrics."""
    scores = draw(25, 45, 3)
    lesions = scores.per_lesion()
    found = bootstrap(scores, POINT, "cascade", 40, rng(5))
    for b, weights in enumerate(np.concatenate(list(lesion_weights(lesions.truth, 40, rng(5))))):
        times = weights.astype(int)
        of_lesion = dict(zip(lesions.lesion.tolist(), times.tolist(), strict=True))
        images = scores.take(
            np.repeat(np.arange(len(scores)), [of_lesion[i] for i in scores.lesion.tolist()])
        )
        for unit, rows in (
            ("image", images),
            ("lesion", lesions.take(np.repeat(np.arange(len(lesions)), times))),
        ):
            for name, value in metrics_of(rows, POINT, "cascade").items():
                if value is None:  # 25 lesions: a threshold separates some resamples
                    assert (name, found[unit][name][b]) == ("calibration_slope", np.inf)
                    continue
                close = 1e-7 if name.startswith("calibration") else 1e-12
                assert found[unit][name][b] == pytest.approx(value, abs=close), (unit, name)
            assert found[unit]["auc"][b] == pytest.approx(
                roc_auc_score(rows.positive, rows.triage), abs=1e-12
            )


def test_slope_and_intercept_of_resamples_are_gathered_closely_enough() -> None:
    """3,000 lesions at 512 common logits: within 1 % of the replicates' own spread of the exact ones."""
    scores = draw(3000, 3000, 4)
    table = calibration_table(scores, POINT)
    weights = next(lesion_weights(scores.truth, 100, rng()))
    together = table.measures(weights)
    for name in ("calibration_slope", "calibration_intercept"):
        alone = np.array([table.measures(row[None])[name].item() for row in weights])
        assert np.abs(together[name] - alone).max() < 0.01 * alone.std()


def test_intervals_of_a_plain_loop_bootstrap_agree() -> None:
    scores = draw(60, 110, 8)
    lesions, loop = scores.per_lesion(), rng(1)
    rows_of = {i: np.flatnonzero(scores.lesion == i) for i in lesions.lesion.tolist()}
    values = []
    for _ in range(2000):
        drawn = [
            loop.choice(lesions.lesion[lesions.truth == c], (lesions.truth == c).sum()) for c in range(4)
        ]
        rows = np.concatenate([rows_of[i] for i in np.concatenate(drawn).tolist()])
        values.append(metrics_of(scores.take(rows), POINT, "binary")["auc"])
    estimate = performance(scores, POINT, "binary", 2000, rng(2))["image"].metrics["auc"]
    assert (estimate.lower, estimate.upper) == pytest.approx(
        tuple(np.quantile(values, [0.025, 0.975])), abs=0.012
    )


def test_clusters_widen_the_interval_of_images() -> None:
    """Five identical images of a lesion carry the information of one: the interval must not shrink."""
    lesions = draw(120, 120, 6)
    fivefold = Scores.join(*[lesions] * 5)
    one = performance(lesions, POINT, "binary", 800, rng())["image"].metrics["auc"]
    five = performance(fivefold, POINT, "binary", 800, rng())["image"].metrics["auc"]
    assert (five.lower, five.upper) == pytest.approx((one.lower, one.upper), abs=1e-9)


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Truth: the AUC of 60,000 lesions. 95 %, less 3 standard errors of 300 runs and a point for small n."""
    true_auc = metrics_of(draw(60_000, 60_001, 999), POINT, "binary")["auc"]
    covered = 0
    for seed in range(300):
        e = performance(draw(150, 200, 10_000 + seed), POINT, "binary", 400, rng(seed))["lesion"].metrics[
            "auc"
        ]
        covered += bool(e.lower <= true_auc <= e.upper)
    assert covered / 300 >= 0.95 - 3 * (0.95 * 0.05 / 300) ** 0.5 - 0.01


def test_intervals_hold_their_values_and_do_not_depend_on_row_order() -> None:
    scores = draw(80, 150, 2)
    shuffled = scores.take(rng(9).permutation(len(scores)))
    one, two = (performance(s, POINT, "cascade", 300, rng(4)) for s in (scores, shuffled))
    for unit in UNITS:
        for name, e in one[unit].metrics.items():
            assert e.lower <= e.value <= e.upper, (unit, name)
            other = two[unit].metrics[name]
            assert (e.value, e.lower, e.upper) == pytest.approx(
                (other.value, other.lower, other.upper), abs=1e-9
            )


def test_where_no_replicate_differs_sensitivity_takes_wilson_with_lesions_as_n() -> None:
    perfect = Scores(
        np.array([3.0, 3.0, 3.1, 2.0, -2.0, -2.1, -2.2]),
        np.ones(7, int),
        np.array([1, 1, 1, 1, 0, 0, 0]),
        np.array(["a", "a", "a", "b", "c", "d", "e"]),
    )
    found = performance(perfect, POINT, "binary", 200, rng())["image"].metrics
    assert found["sensitivity"] == Estimate(value=1.0, lower=wilson(2, 2)[0], upper=1.0)
    assert found["specificity"] == Estimate(value=1.0, lower=wilson(3, 3)[0], upper=1.0)
    assert found["auc"] == Estimate(value=1.0, lower=auc_interval(1.0, 2, 3)[0], upper=1.0)
    assert found["average_precision"] == Estimate(value=1.0)
    assert found["calibration_slope"] == Estimate(value=None)


def test_a_single_malignant_lesion_gives_no_interval_of_the_auc() -> None:
    scores = draw(60, 60, 1)
    keep = ~scores.positive
    keep[np.flatnonzero(scores.positive)[0]] = True
    found = performance(scores.take(keep), POINT, "binary", 200, rng())["lesion"].metrics
    assert found["auc"].value is not None
    assert found["auc"].lower is None
    assert found["specificity"].lower is not None


def test_no_images_and_no_resamples_work() -> None:
    empty = performance(Scores.empty(), POINT, "cascade", 100, rng())["image"]
    assert (empty.n, empty.positives) == (0, 0)
    assert all(e == Estimate(value=None) for e in empty.metrics.values())
    assert performance(draw(9, 9, 1), POINT, "binary", 0, rng())["image"].metrics["auc"].lower is None


def test_coarse_edges_hold_the_threshold_and_lie_on_fine_ones() -> None:
    for threshold in (POINT.threshold, 0.0, EVERYTHING, 23.5):
        edges = coarse_edges(threshold)
        assert len(edges) == COARSE_BINS - 1
        assert threshold in edges
        assert all(snap_down(e) == e for e in edges)
        assert len(np.unique(edges)) >= COARSE_BINS - 2


def sites() -> list[Scores]:
    return [draw(160, 260, 1, "a"), draw(90, 90, 2, "b"), draw(220, 400, 3, "c")]


def seeds() -> list[np.random.SeedSequence]:
    return [site_seed(0, name, "pool") for name in "abc"]


def average_precision_of(pool: Scores, drawn: Floats) -> Floats:
    return np.array([average_precision_score(pool.positive, pool.triage, sample_weight=w) for w in drawn])


@pytest.mark.parametrize("unit", UNITS)
def test_summed_replicates_equal_the_bootstrap_of_pooled_raw_scores(unit: Unit) -> None:
    """The same draws on raw scores, joined: AUC within 2e-3, sensitivity and specificity exactly."""
    parts, tables, weights = [], [], []
    for scores, seed in zip(sites(), seeds(), strict=True):
        parts.append(
            replicate_histograms(scores, resamples=500, seed=seed, unit=unit, threshold=POINT.threshold)
        )
        lesions = scores.per_lesion()
        drawn = np.concatenate(list(lesion_weights(lesions.truth, 500, np.random.default_rng(seed))))
        rows = scores if unit == "image" else lesions
        tables.append(rows)
        weights.append(drawn[:, np.searchsorted(lesions.lesion, rows.lesion)])
    pool, drawn = Scores.join(*tables), np.concatenate(weights, axis=1)
    counts = sum((counts_of(s) for s in sites()), Counts.zero())
    found = replicate_metrics(sum_replicates(parts), counts, POINT, unit)
    aucs = np.array([weighted_ranking(pool, w)["auc"] for w in drawn])
    called, y = pool.triage >= POINT.threshold, pool.positive
    np.testing.assert_allclose(
        found["sensitivity"], drawn[:, y & called].sum(1) / drawn[:, y].sum(1), rtol=1e-12
    )
    np.testing.assert_allclose(
        found["specificity"], drawn[:, ~y & ~called].sum(1) / drawn[:, ~y].sum(1), rtol=1e-12
    )
    assert np.abs(found["auc"] - aucs).max() < 2e-3
    table = calibration_table(pool, POINT)
    exact = table.measures(drawn) | {"average_precision": average_precision_of(pool, drawn)}
    for name in ("average_precision", "calibration_slope", "calibration_intercept"):
        ends = (np.quantile(values, [0.025, 0.975]) for values in (found[name], exact[name]))
        np.testing.assert_allclose(*ends, atol=0.02)
    brier = drawn @ (CalibrationMap.of(POINT).probabilities(pool.triage) - y) ** 2 / drawn.sum(1)
    assert np.abs(found["brier"] - brier).max() < 2e-3
    interval = pooled_intervals(sum_replicates(parts), counts, POINT, unit, "cascade")["auc"]
    assert (interval.lower, interval.upper) == pytest.approx(
        tuple(np.quantile(aucs, [0.025, 0.975])), abs=2e-3
    )


def test_binary_replicates_give_macro_f1_too() -> None:
    scores = sites()[0]
    replicates = site_replicates(scores, resamples=300, seed=seeds()[0], threshold=POINT.threshold)
    found = replicate_metrics(replicates["image"], counts_of(scores), POINT, "image")
    exact = bootstrap(scores, POINT, "binary", 300, np.random.default_rng(seeds()[0]))["image"]
    counted = ("macro_f1", "f1", "ppv", "accuracy", "sensitivity", "balanced_accuracy")
    for name in (*counted, "referrals_per_1000"):
        np.testing.assert_allclose(found[name], exact[name], atol=1e-12)
    assert pooled_intervals(replicates["image"], counts_of(scores), POINT, "image", "binary")[
        "macro_f1"
    ].lower
    assert (
        pooled_intervals(replicates["image"], counts_of(scores), POINT, "image", "cascade")["macro_f1"].lower
        is None
    )


def test_sites_draw_independently() -> None:
    scores = sites()[0]
    one, two = (
        replicate_histograms(scores, resamples=400, seed=s, unit="lesion", threshold=0.0) for s in seeds()[:2]
    )
    a, b = (r[:, 1, 64:].sum(axis=1) for r in (one, two))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.2


def test_replicates_of_other_lesions_than_the_counts_are_refused() -> None:
    a, b, _ = sites()
    replicates = site_replicates(a, resamples=20, seed=seeds()[0], threshold=POINT.threshold)["lesion"]
    with pytest.raises(ValueError, match="a site is missing"):
        pooled_intervals(replicates, counts_of(a) + counts_of(b), POINT, "lesion", "binary")
    with pytest.raises(ValueError, match="expected shape"):
        sum_replicates([replicates, replicates[:5]])


@pytest.mark.parametrize("unit", UNITS)
def test_replicates_under_a_minimum_cell_are_drawn_from_what_is_understood(unit: Unit) -> None:
    """Their mean is the histogram that the server makes of what it was told, and their AUC varies around
    that histogram's."""
    scores = sites()[2]
    hidden = understood(told("test", counts_of(scores), 10))["test"]
    replicates = replicate_histograms(
        scores, resamples=2000, seed=seeds()[0], unit=unit, threshold=POINT.threshold, min_cell=10
    )
    mean = replicates.mean(axis=0)
    bins = np.searchsorted(coarse_edges(POINT.threshold), BIN_CENTRES, side="right")
    for side in (0, 1):
        expected = np.bincount(bins, hidden.histograms(unit)[side], COARSE_BINS)
        np.testing.assert_allclose(mean[side], expected, atol=0.1 * expected.max())
    interval = pooled_intervals(replicates, hidden, POINT, unit, "binary")["auc"]
    assert interval.lower < interval.value < interval.upper
