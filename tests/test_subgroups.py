"""Subgroups: counts, intervals, the largest gap's interval, and that hidden levels stay hidden."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from fedderm.evaluation.documents import OperatingPoint, Subgroup, SubgroupGap
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.subgroup_levels import HIDDEN, NOT_RECORDED, age_bands, joined_levels, lesion_levels
from fedderm.evaluation.subgroups import FEWEST, simultaneous_z, subgroups

POINT = OperatingPoint(
    calibration="identity", slope=1, intercept=0, threshold=0.0, threshold_probability=0.5, origin="a test"
)


def draw(seed: int, lesions: int = 400, prevalence: float = 0.4) -> Scores:
    """Return scores of lesions with one to three images each."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(lesions) < prevalence, rng.integers(1, 4, lesions), 0)
    rows = np.repeat(np.arange(lesions), rng.integers(1, 4, lesions))
    logit = rng.normal(0, 1, lesions)[rows] + 1.5 * (truth[rows] > 0) - 0.5 + rng.normal(0, 0.3, len(rows))
    return Scores(logit, np.ones(len(rows), np.int64), truth[rows], np.char.mod("L%05d", rows))


def levels_of(scores: Scores, *names: str) -> np.ndarray:
    """Return a level for each image, the same for all images of a lesion."""
    return np.array(names)[np.unique(scores.lesion, return_inverse=True)[1] % len(names)]


def find(
    scores: Scores, levels: np.ndarray, min_cell: int = 0, resamples: int = 300
) -> tuple[dict[str, Subgroup], dict[str, SubgroupGap]]:
    rows, gaps = subgroups(
        scores,
        {"place": levels},
        POINT,
        resamples=resamples,
        rng=np.random.default_rng(5),
        min_cell=min_cell,
    )
    return {row.level: row for row in rows}, {gap.metric: gap for gap in gaps}


def rates(hits: dict[str, tuple[int, int]]) -> tuple[Scores, np.ndarray]:
    """Return lesions with one image each, of which so many of so many malignant ones are found in a level."""
    logits = [np.where(np.arange(n) < k, 1.0, -1.0) for k, n in hits.values()]
    levels = np.repeat(list(hits), [n for _, n in hits.values()])
    n = len(levels)
    one = np.ones(n, np.int64)
    return Scores(np.concatenate(logits), one, one, np.char.mod("L%05d", np.arange(n))), levels


def test_counts_and_metrics_of_each_level_are_those_of_its_lesions() -> None:
    scores = draw(1)
    levels = levels_of(scores, "arm", "back", "leg")
    rows, _ = find(scores, levels)
    lesions = scores.per_lesion()
    assert list(rows) == ["arm", "back", "leg"]
    for name, row in rows.items():
        own = lesions.take(np.isin(lesions.lesion, scores.lesion[levels == name]))
        found, p = int((own.triage[own.positive] >= 0).sum()), int(own.positive.sum())
        assert (row.n, row.positives) == (len(own), p)
        assert row.sensitivity.value == found / p
        expected = proportion_confint(found, p, alpha=0.05, method="wilson")
        assert (row.sensitivity.lower, row.sensitivity.upper) == pytest.approx(expected)
        assert row.specificity.value == (own.triage[~own.positive] < 0).mean()
        assert row.auc.value == pytest.approx(roc_auc_score(own.positive, own.triage))
        assert row.auc.lower is not None
        assert row.auc.upper is not None
        assert row.auc.lower < row.auc.value < row.auc.upper


def test_the_order_of_images_changes_nothing() -> None:
    scores = draw(2)
    levels = levels_of(scores, "a", "b")
    order = np.random.default_rng(0).permutation(len(scores))
    assert find(scores.take(order), levels[order]) == find(scores, levels)


def test_ages_fall_into_bands_and_zero_is_not_recorded() -> None:
    ages = [0, 1, 39, 39.9, 40, 59, 60, 79, 80, 120, float("nan")]
    bands = ["", "0-39", "0-39", "0-39", "40-59", "40-59", "60-79", "60-79", "80+", "80+", ""]
    assert age_bands(ages).tolist() == bands
    assert age_bands(["", " 45", "nan"]).tolist() == ["", "40-59", ""]
    for wrong, said in (([-1.0], "-1"), ([121], "121"), (["old"], "old"), ([np.inf], "inf")):
        with pytest.raises(ValueError, match=said):
            age_bands(wrong)


def test_a_lesion_has_the_level_its_images_agree_on() -> None:
    lesion = np.array(["a", "a", "b", "b", "c", "d"])
    scores = Scores(np.zeros(6), np.ones(6, np.int64), np.zeros(6, np.int64), lesion)
    levels = np.array(["arm", "", "arm", "leg", " ", "leg "])
    assert lesion_levels(scores, "site", levels).tolist() == ["arm", NOT_RECORDED, NOT_RECORDED, "leg"]
    with pytest.raises(ValueError, match="site must have a level for each of 6 images"):
        lesion_levels(scores, "site", levels[:5])


def test_a_rate_needs_enough_lesions_of_its_class() -> None:
    scores, levels = rates({"few": (FEWEST - 1, FEWEST - 1), "enough": (FEWEST, FEWEST)})
    rows, gaps = find(scores, levels)
    assert (rows["few"].n, rows["few"].sensitivity.value) == (FEWEST - 1, None)
    assert rows["enough"].sensitivity.value == 1
    assert rows["enough"].sensitivity.lower == pytest.approx(0.7225, abs=1e-4)
    assert rows["enough"].specificity.value is rows["enough"].auc.value is None
    assert gaps == {}


def test_what_is_not_recorded_is_shown_but_makes_no_gap() -> None:
    scores, levels = rates({"a": (20, 20), "b": (19, 20), "": (2, 20)})
    rows, gaps = find(scores, levels)
    assert list(rows) == ["a", "b", NOT_RECORDED]
    assert gaps["sensitivity"].difference.value == pytest.approx(0.05)


def test_the_gap_of_two_levels_is_newcombes() -> None:
    scores, levels = rates({"a": (56, 70), "b": (48, 80)})
    gap = find(scores, levels)[1]["sensitivity"]
    assert (gap.highest, gap.lowest) == ("a", "b")
    # Newcombe 1998, table II: 56/70 against 48/80 is 0.2000 (0.0524, 0.3339) by method 10.
    assert gap.difference.value == pytest.approx(0.2)
    assert gap.difference.lower == pytest.approx(0.0524, abs=5e-5)
    assert gap.difference.upper == pytest.approx(0.3339, abs=5e-5)
    expected = confint_proportions_2indep(56, 70, 48, 80, method="newcomb", compare="diff")
    assert (gap.difference.lower, gap.difference.upper) == pytest.approx(expected)


def test_levels_without_a_difference_have_a_gap_of_zero_between_two() -> None:
    scores, levels = rates({"a": (15, 20), "b": (15, 20), "c": (15, 20)})
    gap = find(scores, levels)[1]["sensitivity"]
    assert gap.highest != gap.lowest
    assert gap.difference.value == 0
    assert gap.difference.lower == pytest.approx(-gap.difference.upper)


def test_the_largest_gap_of_equal_levels_is_rarely_significant() -> None:
    """Six levels with one true sensitivity of 0.85, 40 lesions each, 1,000 sites: at most 5 % may exclude 0.

    An interval that forgets that the gap was picked excludes 0 several times as often.
    """
    rng, names = np.random.default_rng(3), "abcdef"
    excluded = forgetful = 0
    sites = 1000
    for _ in range(sites):
        hits = rng.binomial(40, 0.85, 6)
        scores, levels = rates(dict(zip(names, zip(hits.tolist(), [40] * 6, strict=True), strict=True)))
        gap = find(scores, levels, resamples=0)[1]["sensitivity"]
        assert gap.difference.lower is not None
        excluded += gap.difference.lower > 0
        naive = confint_proportions_2indep(hits.max(), 40, hits.min(), 40, method="newcomb", compare="diff")
        forgetful += naive[0] > 0
    assert excluded <= sites * 0.05 + 3 * (sites * 0.05 * 0.95) ** 0.5
    assert excluded >= sites * 0.005  # not bought with intervals of any width
    assert forgetful > 2 * sites * 0.05


def test_the_gap_of_aucs_covers_the_difference_between_the_levels_it_names() -> None:
    """Levels with AUCs of 0.76 and 0.92 by their normal scores: a gap of 0.16 is found and covered."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(60):
        truth = np.tile([0, 1], 150)
        level = np.repeat(["easy", "hard"], 150)
        logit = rng.normal(0, 1, 300) + truth * np.where(level == "easy", 2.0, 1.0)
        scores = Scores(logit, np.ones(300, np.int64), truth, np.char.mod("L%05d", np.arange(300)))
        gap = find(scores, level, resamples=200)[1]["auc"].difference
        assert gap.lower is not None
        assert gap.upper is not None
        covered += gap.lower <= 0.1611 <= gap.upper
    assert covered >= 52  # 95 % of 60 is 57


def test_more_levels_need_a_wider_interval() -> None:
    # Tabulated: q(0.95; K, infinity) = 2.772, 3.314, 4.286 for K = 2, 3, 8.
    for levels, q in ((2, 2.772), (3, 3.314), (8, 4.286)):
        assert simultaneous_z(levels) == pytest.approx(q / 2**0.5, abs=1e-3)


def test_a_diagnosis_has_only_the_rate_of_its_class() -> None:
    scores = draw(6)
    diagnosis = np.array(["nv", "mel", "scc", "bcc"])[scores.truth]
    rows, gaps = find(scores, diagnosis)
    assert rows["nv"].sensitivity.value is rows["nv"].auc.value is rows["mel"].specificity.value is None
    assert rows["nv"].specificity.value is not None
    assert {row.positives == row.n for name, row in rows.items() if name != "nv"} == {True}
    assert set(gaps) == {"sensitivity"}


def test_small_levels_are_joined_with_others_and_the_joint_row_is_the_rest() -> None:
    scores = draw(7, 600)
    lesion = np.unique(scores.lesion, return_inverse=True)[1]
    levels = np.where(lesion < 8, "tiny", np.where(lesion < 120, "small", np.where(lesion < 300, "b", "c")))
    rows, _ = find(scores, levels, min_cell=10)
    assert set(rows) == {"b", "c", HIDDEN}
    assert rows[HIDDEN].n == 120
    assert sum(row.n for row in rows.values()) == 600


def test_an_attribute_that_can_show_nothing_is_left_out() -> None:
    scores = draw(8, 200)
    few = np.where(np.unique(scores.lesion, return_inverse=True)[1] < 5, "f", "m")
    assert find(scores, few, min_cell=10) == ({}, {})
    small = draw(9, 60, prevalence=0.05)
    assert find(small, levels_of(small, "a"), min_cell=10) == ({}, {})
    assert find(Scores.empty(), np.empty(0, np.str_), min_cell=10) == ({}, {})


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 25)), min_size=1, max_size=8), st.integers(2, 15)
)
def test_no_small_count_can_be_found_from_the_rows_and_the_totals(
    cells: list[tuple[int, int]], min_cell: int
) -> None:
    """A reader can form every linear combination of the rows and of the totals.

    A level's own count is among them only where its row vector lies in their span; such a count must be zero
    or reach the minimum, and so must every difference between the totals and what is shown.
    """
    table = np.array(cells)
    hidden = joined_levels(table, min_cell)
    if hidden.all():
        return
    shown = [np.eye(len(table))[level] for level in np.flatnonzero(~hidden)]
    span = np.stack([*shown, np.ones(len(table))])
    for level in range(len(table)):
        with_level = np.vstack([span, np.eye(len(table))[level]])
        if np.linalg.matrix_rank(with_level) == np.linalg.matrix_rank(span):
            assert not ((table[level] > 0) & (table[level] < min_cell)).any()
    rest = table[hidden].sum(axis=0)
    assert not ((rest > 0) & (rest < min_cell)).any()


def test_a_rare_diagnosis_is_not_found_by_subtraction_from_its_class() -> None:
    """Two actinic keratoses counted as SCC beside 30: 30 shown and 32 in the confusion matrix tell two."""
    truth = np.repeat([0, 1, 2, 3], [60, 40, 32, 11])
    diagnosis = np.repeat(["nv", "mel", "scc", "ak", "bcc"], [60, 40, 30, 2, 11])
    n = len(truth)
    scores = Scores(np.zeros(n), np.ones(n, np.int64), truth, np.char.mod("L%05d", np.arange(n)))
    rows, _ = find(scores, diagnosis, min_cell=10)
    assert set(rows) == {"nv", "mel", "bcc", HIDDEN}
    assert rows[HIDDEN].n == 32


def test_a_rare_class_is_not_found_from_the_counts_that_fold_it() -> None:
    """Three SCC leave the site as melanomas in its counts: 43 there and 40 here would tell three."""
    truth = np.repeat([0, 1, 2, 3], [60, 40, 3, 15])
    scores = Scores(np.zeros(118), np.ones(118, np.int64), truth, np.char.mod("L%05d", np.arange(118)))
    rows, _ = find(scores, np.array(["nv", "mel", "scc", "bcc"])[truth], min_cell=10)
    assert set(rows) == {"nv", "bcc", HIDDEN}
    assert rows[HIDDEN].n == 43
