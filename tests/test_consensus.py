"""EM consensus: hand-computed answers, simulated annotators of known rates, and the majority beside it."""

import numpy as np
import pytest

from sites.consensus import Floats, consensus, intervals, majority

TRUE_SENSITIVITY = np.array([0.95, 0.90, 0.60, 0.55])
TRUE_SPECIFICITY = np.array([0.95, 0.92, 0.80, 0.85])


def simulated(seed: int, images: int, seen: float = 0.8, prevalence: float = 0.35) -> tuple[Floats, Floats]:
    """Return the truth (N,) and what four annotators say, two good ones and two poor ones."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(images) < prevalence).astype(float)
    chance = np.where(truth[:, None] == 1, TRUE_SENSITIVITY, 1 - TRUE_SPECIFICITY)
    answers = (rng.random((images, 4)) < chance).astype(float)
    answers[rng.random(answers.shape) > seen] = np.nan
    return truth, answers


def test_majority_counts_only_who_judged() -> None:
    answers = np.array([[1, 1, 0], [1, 0, np.nan], [np.nan, np.nan, np.nan], [0, np.nan, np.nan]])
    np.testing.assert_allclose(majority(answers), [2 / 3, 0.5, np.nan, 0])


def test_one_annotator_is_taken_at_their_word() -> None:
    found = consensus(np.array([[1.0], [0], [np.nan], [1]]))
    np.testing.assert_array_equal(found.labels(), [1, 0, np.nan, 1])


def test_annotators_who_agree_are_right_with_certainty() -> None:
    answers = np.array([[1.0, 1, 1]] * 3 + [[0, 0, 0]] * 6)
    found = consensus(answers)
    np.testing.assert_allclose(found.sensitivity, 1, atol=1e-6)
    np.testing.assert_allclose(found.specificity, 1, atol=1e-6)
    assert found.prevalence == pytest.approx(1 / 3, abs=1e-6)


def test_the_result_is_a_fixed_point_of_the_papers_equations() -> None:
    """Equations 2.3 to 2.5 written image by image: one more step changes nothing."""
    _, answers = simulated(3, 400)
    found = consensus(answers)
    known = ~np.isnan(found.probability)
    kept, q = answers[known], found.probability[known]
    for one in range(4):
        given = ~np.isnan(kept[:, one])
        says = kept[given, one]
        assert (q[given] * says).sum() / q[given].sum() == pytest.approx(found.sensitivity[one], abs=1e-4)
        assert ((1 - q[given]) * (1 - says)).sum() / (1 - q[given]).sum() == pytest.approx(
            found.specificity[one], abs=1e-4
        )
    for image in range(20):
        present, absent = found.prevalence, 1 - found.prevalence
        for one in range(4):
            if kept[image, one] == 1:
                present, absent = present * found.sensitivity[one], absent * (1 - found.specificity[one])
            elif kept[image, one] == 0:
                present, absent = present * (1 - found.sensitivity[one]), absent * found.specificity[one]
        assert q[image] == pytest.approx(present / (present + absent), abs=1e-4)


def test_simulated_annotators_rates_are_recovered_closely() -> None:
    """Ten draws of 2,000 images: the mean error of a rate is below 0.02 and none is above 0.07."""
    errors = []
    for seed in range(10):
        found = consensus(simulated(seed, 2000)[1])
        errors += [found.sensitivity - TRUE_SENSITIVITY, found.specificity - TRUE_SPECIFICITY]
    assert np.abs(errors).max() < 0.07
    assert np.abs(np.mean(errors, axis=0)).max() < 0.02


def test_it_beats_the_majority_where_annotators_differ() -> None:
    """Two good annotators, two poor ones: fewer wrong labels in each of ten draws (ties count as half)."""
    for seed in range(10):
        truth, answers = simulated(seed, 1000)
        share = majority(answers)
        judged = ~np.isnan(share)
        em = np.mean(consensus(answers).labels()[judged] != truth[judged])
        vote = np.where(share == 0.5, 0.5, (share > 0.5) != truth)[judged].mean()
        assert em < vote


def test_intervals_hold_the_true_rates_as_often_as_they_say() -> None:
    """40 draws of 500 images, 8 rates each: nominal 95 %; the count of 320 dependent ones may be 4 % off."""
    hits = []
    for seed in range(40):
        _, answers = simulated(100 + seed, 500)
        found = intervals(answers, seed, resamples=200)
        for ends, true in ((found.sensitivity, TRUE_SENSITIVITY), (found.specificity, TRUE_SPECIFICITY)):
            hits += list((ends[:, 0] <= true) & (true <= ends[:, 1]))
    assert 0.90 < np.mean(hits) <= 1.0


def test_nobody_judged_anything() -> None:
    found = consensus(np.full((3, 2), np.nan))
    assert np.isnan(found.labels()).all()
    with pytest.raises(ValueError, match="no image is judged"):
        intervals(np.full((3, 2), np.nan), 1)
