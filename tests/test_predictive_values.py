"""Certified NPV, PPV and rates of referral: derived numbers, and the guarantee by Monte Carlo."""

import numpy as np
import pytest
from scipy.stats import beta, binom

from fedderm.evaluation.counts import check_on_edge
from fedderm.evaluation.predictive_values import npv_threshold, ppv_threshold, referral_threshold, snap_up
from fedderm.evaluation.scores import Scores


def lesions(logits: np.ndarray, malignant: np.ndarray) -> Scores:
    n = len(logits)
    return Scores(logits, np.ones(n, int), np.asarray(malignant, dtype=int), np.arange(n).astype(str))


def test_without_a_miss_npv_needs_149_lesions_for_098() -> None:
    """0.98 ** 149 <= 0.05 < 0.98 ** 148; the threshold leaves at least 149 below it."""
    for n, offered in ((149, False), (150, True)):
        logits = np.arange(float(n)) / 16
        threshold, sentence = npv_threshold(lesions(logits, np.zeros(n)), 0.98, 0.95)
        assert (threshold is not None) == offered
        assert sentence.startswith("Certified" if offered else "Cannot be certified: 149 calibration lesions")


def test_the_npv_is_what_clopper_and_pearson_say() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 1500)
    scores = lesions(logits, rng.random(1500) < 1 / (1 + np.exp(2 - logits)))
    threshold, sentence = npv_threshold(scores, 0.95, 0.95)
    assert threshold is not None
    check_on_edge(threshold)
    below = logits < threshold
    missed, n = int(scores.positive[below].sum()), int(below.sum())
    assert f"from {n} calibration lesions below the threshold, {missed} of them malignant" in sentence
    assert beta.ppf(0.95, missed + 1, n - missed) <= 0.05


def test_the_sequence_stops_at_the_first_failure() -> None:
    """All lesions between rank 500 and 600 are malignant, all others benign: beyond, nothing is tested."""
    malignant = np.zeros(2000, bool)
    malignant[500:600] = True
    logits = np.arange(2000.0) / 256
    threshold, _ = npv_threshold(lesions(logits, malignant), 0.9, 0.95)
    assert threshold is not None
    assert 500 / 256 <= threshold < 600 / 256


def test_ppv_mirrors_npv() -> None:
    rng = np.random.default_rng(1)
    logits = np.round(rng.normal(0, 2, 1000) * 128) / 256 + 1 / 512
    malignant = rng.random(1000) < 1 / (1 + np.exp(-2 * logits))
    scores = lesions(logits, malignant)
    threshold, sentence = ppv_threshold(scores, 0.7, 0.95)
    assert threshold is not None
    check_on_edge(threshold)
    above = logits >= threshold
    benign, n = int((~malignant[above]).sum()), int(above.sum())
    assert f"from {n} calibration lesions at or above the threshold, {benign} of them benign" in sentence
    assert binom.cdf(benign, n, 0.3) <= 0.05


def test_nothing_to_certify_says_what_was_found() -> None:
    scores = lesions(np.arange(400.0) / 16 - 12, np.arange(400) % 2)
    threshold, sentence = npv_threshold(scores, 0.98, 0.95)
    assert threshold is None
    assert "74 of the 149 lesions below the lowest threshold tested are malignant" in sentence
    threshold, sentence = ppv_threshold(scores, 0.9, 0.95)
    assert threshold is None
    assert "20 of the 40 lesions at or above the highest threshold tested are benign" in sentence


def test_empty_and_tied_splits_have_no_threshold() -> None:
    for scores in (
        Scores.empty(),
        lesions(np.full(300, 1 / 3), np.zeros(300)),
        lesions(np.full(300, 99.0), np.ones(300)),
    ):
        for certify in (npv_threshold, ppv_threshold):
            assert certify(scores, 0.9, 0.95)[0] is None or scores.triage[0] < 1
    assert referral_threshold(Scores.empty(), 0.5, 0.95)[0] is None
    threshold, sentence = referral_threshold(lesions(np.full(300, 99.0), np.ones(300)), 0.5, 0.95)
    assert threshold is None
    assert "above the last bin" in sentence


def test_the_referral_threshold_is_the_order_statistic() -> None:
    """Of 100 lesions at most k may be referred, k the largest with P(Binom(100, 0.5) <= k) <= 0.05: 41."""
    logits = np.random.default_rng(2).permutation(np.arange(100.0)) / 8
    threshold, sentence = referral_threshold(lesions(logits, np.zeros(100)), 0.5, 0.95)
    assert threshold is not None
    check_on_edge(threshold)
    assert (logits >= threshold).sum() == 41
    assert sentence.endswith("from 100 calibration lesions, of which 41 may be referred.")


def test_labels_do_not_move_the_referral_threshold() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=300)
    found = {referral_threshold(lesions(logits, rng.random(300) < p), 0.3, 0.9)[0] for p in (0, 0.5, 1)}
    assert len(found) == 1


def test_images_of_a_lesion_do_not_certify() -> None:
    one = lesions(np.arange(140.0) / 16, np.zeros(140))
    assert npv_threshold(Scores.join(one, one, one), 0.98, 0.95)[0] is None


@pytest.mark.parametrize("value", [-30.0, -3.001, 0.0, 0.0001, 7.99, 23.99])
def test_snapping_up_is_the_next_edge(value: float) -> None:
    edge = snap_up(value)
    check_on_edge(edge)
    assert 0 <= edge - value <= (1 / 16 if value > -24 else 6)
    assert snap_up(edge) == edge


def test_the_ppv_guarantee_holds_and_the_naive_choice_does_not() -> None:
    """Malignant with probability p(s) = s on uniform scores: the PPV at t is (1 + t) / 2.

    Among 2,000 sets of 300, the certified threshold has too low a PPV (t < 0.6 for 0.8) in at most 5 % within
    binomial error; the lowest threshold whose *observed* PPV is 0.8 has it about half of the time.
    """
    rng = np.random.default_rng(4)
    wrong = naive = offered = 0
    for _ in range(2000):
        s = np.sort(rng.random(300))
        malignant = rng.random(300) < s
        threshold, _ = ppv_threshold(lesions(s, malignant), 0.8, 0.95)
        if threshold is not None:
            offered += 1
            wrong += threshold < 0.6
        observed = np.cumsum(malignant[::-1]) / np.arange(1, 301)
        naive += s[::-1][np.flatnonzero(observed >= 0.8).max()] < 0.6
    assert offered > 1000
    assert wrong / offered <= 0.05 + 3 * (0.05 * 0.95 / offered) ** 0.5
    assert naive / 2000 > 0.3
