"""Certified thresholds: the published numbers of lesions, and the guarantee by Monte Carlo."""

import numpy as np
import pytest
from scipy.stats import binom

from fedderm.evaluation.counts import EVERYTHING, Counts, counts_of, snap_down
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.thresholds import (
    certifiable_sensitivity,
    certified_threshold,
    federation_threshold,
    misses_allowed,
    positives_needed,
)


@pytest.mark.parametrize(("target", "needed"), [(0.90, 29), (0.95, 59), (0.98, 149)])
def test_published_numbers_of_lesions(target: float, needed: int) -> None:
    assert positives_needed(target, 0.95) == needed
    assert misses_allowed(needed - 1, target, 0.95) is None
    assert misses_allowed(needed, target, 0.95) == 0


@pytest.mark.parametrize("n", [29, 30, 45, 46, 47, 100, 517, 4000])
@pytest.mark.parametrize(("target", "confidence"), [(0.9, 0.95), (0.8, 0.9)])
def test_k_is_the_largest_with_the_binomial_tail(n: int, target: float, confidence: float) -> None:
    tails = binom.cdf(np.arange(n), n, 1 - target)
    assert misses_allowed(n, target, confidence) == np.flatnonzero(tails <= 1 - confidence).max()


def test_the_threshold_is_the_order_statistic() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(100.0))
    k = misses_allowed(100, 0.9, 0.95)
    threshold, certificate = certified_threshold(scores, 0.9, 0.95)
    assert k == 4
    assert threshold == 4.0
    assert int((scores < threshold).sum()) == k
    assert certificate.certified
    assert "100 malignant lesions, of which 4 may lie below" in certificate.sentence


def test_too_few_lesions_say_how_many_more() -> None:
    threshold, certificate = certified_threshold(np.zeros(12), 0.9, 0.95)
    assert threshold is None
    assert not certificate.certified
    assert (certificate.positives, certificate.needed) == (12, 29)
    assert certificate.sentence == (
        "Cannot be certified: 12 malignant lesions now, 29 needed for a sensitivity of 90 % at 95 % "
        "confidence, 17 more; 12 malignant lesions can certify 78 %."
    )


def test_no_lesion_and_one_lesion_have_clear_sentences() -> None:
    assert certified_threshold([], 0.9, 0.95)[1].sentence.startswith(
        "Cannot be certified: 0 malignant lesions now"
    )
    assert "1 malignant lesion now" in certified_threshold([1.0], 0.9, 0.95)[1].sentence


def test_what_n_lesions_can_certify_is_what_they_are_needed_for() -> None:
    assert certifiable_sensitivity(0, 0.95) == 0
    for n in (1, 5, 29, 59, 149):
        best = certifiable_sensitivity(n, 0.95)
        assert positives_needed(best - 1e-9, 0.95) == n
        assert positives_needed(best + 1e-6, 0.95) == n + 1


@pytest.mark.parametrize(("target", "confidence"), [(0.0, 0.9), (1.0, 0.9), (0.9, 1.0), (0.9, -1.0)])
def test_impossible_targets_are_refused(target: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        positives_needed(target, confidence)


@pytest.mark.parametrize("n", [29, 40, 60, 150])
def test_the_guarantee_holds(n: int) -> None:
    """Scores uniform on (0, 1): the sensitivity of a threshold t is 1 - t. 20,000 sets of n lesions.

    The share with a sensitivity of at least 0.90 must be the binomial's exact value, and so at least 0.95.
    """
    scores = np.random.default_rng(n).random((20_000, n))
    k = misses_allowed(n, 0.9, 0.95)
    assert k is not None
    thresholds = np.partition(scores, k, axis=1)[:, k]
    assert certified_threshold(scores[0], 0.9, 0.95)[0] == thresholds[0]
    kept = float((1 - thresholds >= 0.9).mean())
    exact = 1 - binom.cdf(k, n, 0.1)
    assert exact >= 0.95
    assert kept == pytest.approx(exact, abs=4 * (0.05 * 0.95 / 20_000) ** 0.5)


def test_the_next_order_statistic_would_break_the_guarantee() -> None:
    n, k = 60, misses_allowed(60, 0.9, 0.95)
    assert k is not None
    scores = np.sort(np.random.default_rng(1).random((20_000, n)), axis=1)
    assert (1 - scores[:, k + 1] >= 0.9).mean() < 0.95


def test_ties_keep_the_guarantee() -> None:
    """Scores on a grid of 8 values: sensitivity counts scores at or above the threshold."""
    rng = np.random.default_rng(2)
    kept = 0
    for _ in range(2000):
        threshold, _ = certified_threshold(rng.integers(0, 8, 60), 0.9, 0.95)
        kept += 1 - threshold / 8 >= 0.9
    assert kept / 2000 >= 0.95


def federation(n: int, seed: int, images: int = 1) -> tuple[Counts, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits, benign = rng.normal(1, 1, n), rng.normal(-1, 1, 200)
    truth = np.concatenate([np.ones(n, int), np.zeros(200, int)])
    names = np.arange(n + 200).astype(str)
    scores = Scores(np.concatenate([logits, benign]), np.ones(n + 200, int), truth, names)
    return counts_of(Scores.join(*[scores] * images)), logits


def test_the_federation_snaps_its_threshold_down() -> None:
    for seed in range(20):
        counts, logits = federation(80, seed)
        threshold, certificate = federation_threshold(counts, 0.9, 0.95)
        exact, _ = certified_threshold(logits, 0.9, 0.95)
        assert exact is not None
        assert threshold == snap_down(exact)
        assert 0 <= exact - threshold < 1 / 256
        assert certificate.certified


def test_images_of_a_lesion_do_not_certify() -> None:
    counts, _ = federation(12, 0, images=5)
    assert counts.positives("image") == 60
    _, certificate = federation_threshold(counts, 0.9, 0.95)
    assert (certificate.positives, certificate.certified) == (12, False)


def test_too_few_lesions_fall_back_on_the_empirical_quantile_and_say_so() -> None:
    counts, logits = federation(20, 1)
    threshold, certificate = federation_threshold(counts, 0.9, 0.95)
    assert threshold == snap_down(float(np.sort(logits)[2]))
    assert (logits >= threshold).mean() == 0.9
    assert certificate.sentence.endswith("The threshold is the empirical quantile, with 2 of 20 below it.")
    assert certificate.sentence.startswith("Cannot be certified")


def test_a_federation_without_malignant_lesions_takes_logit_zero() -> None:
    threshold, certificate = federation_threshold(federation(0, 1)[0], 0.9, 0.95)
    assert threshold == 0
    assert certificate.sentence.endswith("for want of malignant lesions.")


def test_scores_below_all_edges_make_everything_malignant() -> None:
    names = np.arange(40).astype(str)
    counts = counts_of(Scores(np.full(40, -100.0), np.ones(40, int), np.ones(40, int), names))
    assert federation_threshold(counts, 0.9, 0.95)[0] == EVERYTHING
