"""Paired comparisons: DeLong by its definition and by simulation, McNemar, differences, Holm."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from test_counts import draw

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.comparison import (
    delong_covariance,
    delong_test,
    holm,
    mcnemar_p,
    paired_decisions,
    paired_differences,
)
from fedderm.evaluation.metrics import metrics_of
from fedderm.evaluation.recalibration import operating_point
from fedderm.evaluation.scores import Floats, Scores

LOW, HIGH = (operating_point(CalibrationMap(), t, "chosen for the test") for t in (-0.5, 0.5))


def by_definition(triage: Floats, positive: Floats) -> tuple[Floats, Floats]:
    """DeLong et al. 1988, Eq. 5-6: structural components as means over all pairs, O(m n)."""
    components = []
    for row in triage:
        x, y = row[positive], row[~positive]
        psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        components.append((psi.mean(axis=1), psi.mean(axis=0)))
    aucs = np.array([ten.mean() for ten, _ in components])
    found = np.zeros((len(triage), len(triage)))
    for r, (ten_r, one_r) in enumerate(components):
        for s, (ten_s, one_s) in enumerate(components):
            s10 = ((ten_r - aucs[r]) * (ten_s - aucs[s])).sum() / (len(ten_r) - 1)
            s01 = ((one_r - aucs[r]) * (one_s - aucs[s])).sum() / (len(one_r) - 1)
            found[r, s] = s10 / len(ten_r) + s01 / len(one_r)
    return aucs, found


@pytest.mark.parametrize("tied", [False, True])
def test_midranks_give_the_covariance_of_the_definition(tied: bool) -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(90) < 0.3
    triage = rng.normal(0, 1, (3, 90)) + positive + rng.normal(0, 1, 90)
    triage = np.round(triage) if tied else triage
    aucs, covariance = delong_covariance(triage, positive)
    expected_aucs, expected = by_definition(triage, positive)
    np.testing.assert_allclose(aucs, expected_aucs, atol=1e-12)
    np.testing.assert_allclose(covariance, expected, atol=1e-12)


def pair(rng: np.random.Generator, n: int, gain: float) -> tuple[Scores, Scores]:
    """Two models that see the same lesions with a shared and an own error; one better by ``gain``."""
    truth = np.repeat([0, 1], [n, n // 2])
    shared = rng.normal(0, 1, len(truth))
    one, two = (rng.normal(0, 0.8, len(truth)) + shared + (1 + g) * truth for g in (0.0, gain))
    ids = np.arange(len(truth)).astype(str)
    return tuple(Scores(x, np.ones(len(truth), int), truth, ids) for x in (one, two))  # type: ignore[return-value]


def test_delong_rejects_at_its_level_and_finds_a_difference() -> None:
    """1,000 pairs of equal models: rejections within 3 standard errors of 5 %; and power for unequal ones."""
    rng, runs = np.random.default_rng(7), 1000
    p = np.array([delong_test(*pair(rng, 80, 0.0)).p_value for _ in range(runs)])
    assert abs((p < 0.05).mean() - 0.05) < 3 * (0.05 * 0.95 / runs) ** 0.5
    found = [delong_test(*pair(rng, 200, 0.8)) for _ in range(50)]
    assert np.mean([one.p_value < 0.05 for one in found]) > 0.8
    assert all(one.difference.lower <= one.difference.value <= one.difference.upper for one in found)


def test_delong_of_a_score_set_with_itself_has_no_p_value() -> None:
    scores = draw(60, 90, 1)
    found = delong_test(scores, scores)
    assert (found.difference.value, found.difference.lower, found.p_value) == (0.0, None, None)
    assert found.first == pytest.approx(metrics_of(scores.per_lesion(), LOW, "binary")["auc"])


def test_other_lesions_or_too_few_are_refused() -> None:
    scores = draw(60, 90, 1)
    with pytest.raises(ValueError, match="same lesions and truths, found 60 and 50 lesions, 0 in common"):
        delong_test(scores, draw(50, 60, 2, "b"))
    single = Scores(np.arange(3.0), np.ones(3, int), np.array([0, 0, 1]), np.arange(3).astype(str))
    with pytest.raises(ValueError, match="found 1 malignant and 2 benign"):
        delong_test(single, single)


def test_mcnemar_is_the_sign_test_of_discordant_lesions() -> None:
    for b, c in ((3, 11), (5, 5), (0, 6), (1, 0)):
        assert mcnemar_p(b, c) == pytest.approx(min(1.0, binomtest(b, b + c, 0.5).pvalue), abs=1e-12)
    assert mcnemar_p(0, 0) is None


def test_paired_decisions_count_lesions_right_at_one_threshold_only() -> None:
    # Raising the threshold from -0.5 to 0.5 mends the two benign lesions between them and loses one melanoma.
    scores = Scores(
        np.array([0.0, 0.2, 0.1, 2.0, -2.0, 0.1]),
        np.ones(6, int),
        np.array([0, 0, 1, 1, 0, 1]),
        np.array(["a", "b", "c", "d", "e", "c"]),
    )
    found = paired_decisions(scores, LOW, HIGH)
    assert (found.only_before, found.only_after) == (1, 2)
    assert found.p_value == pytest.approx(1.0)
    assert paired_decisions(scores, LOW, LOW).p_value is None


def test_paired_differences_share_their_draws() -> None:
    rng = np.random.default_rng(3)
    first, second = pair(rng, 150, 0.5)
    found = paired_differences(first, second, (LOW, LOW), "binary", resamples=400, seed=1)["lesion"]
    one, two = (metrics_of(s, LOW, "binary") for s in (first, second))
    assert found["auc"].value == pytest.approx(two["auc"] - one["auc"])
    paired = delong_test(first, second).difference
    assert (found["auc"].lower, found["auc"].upper) == pytest.approx((paired.lower, paired.upper), abs=0.015)
    # Of two thresholds on the same scores the AUC cannot differ; sensitivity falls as the threshold rises.
    same = paired_differences(first, first, (LOW, HIGH), "binary", resamples=200, seed=1)["image"]
    assert (same["auc"].value, same["auc"].lower) == (0.0, None)
    assert same["sensitivity"].upper < 0 < same["specificity"].lower
    with pytest.raises(ValueError, match="same lesions"):
        paired_differences(
            first, replace(second, truth=1 - second.truth), (LOW, LOW), "binary", resamples=9, seed=1
        )


def test_holm_multiplies_the_smallest_by_their_number_and_never_turns_the_order_around() -> None:
    # 3 x 0.01 = 0.03; 2 x 0.02 = 0.04; 1 x 0.03 would fall below that, and takes 0.04.
    found = holm({"a": 0.02, "b": 0.01, "c": None, "d": 0.03})
    assert found == {
        "a": pytest.approx(0.04),
        "b": pytest.approx(0.03),
        "c": None,
        "d": pytest.approx(0.04),
    }
    assert holm({"a": None}) == {"a": None}
