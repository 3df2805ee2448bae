"""The prevalence from unlabelled lesions: closed forms, plain EM, coverage, and what miscalibration does."""

import numpy as np
import pytest
from scipy.special import expit, logit

from fedderm.evaluation.calibration_maps import fit_platt
from fedderm.evaluation.prior_shift import em_log_odds, estimate_prior_shift
from fedderm.evaluation.scores import Floats

SPREAD = 1.0
"""Raw logits N(-+SPREAD, 1): the log likelihood ratio is 2 * SPREAD * x, known exactly."""


def site(rng: np.random.Generator, lesions: int, prevalence: float) -> tuple[Floats, Floats]:
    truth = rng.random(lesions) < prevalence
    return rng.normal(np.where(truth, SPREAD, -SPREAD), 1), truth


def calibrated(x: Floats, reference: float) -> Floats:
    return 2 * SPREAD * x + logit(reference)


def test_separated_classes_give_the_share_of_the_malignant() -> None:
    logits = np.repeat([-30.0, 30.0], [73, 27])
    assert expit(em_log_odds(logits, 0.5)) == pytest.approx(0.27, abs=1e-9)


def test_two_values_have_a_closed_form() -> None:
    """P(high | malignant) = 0.8, P(high | benign) = 0.3, so a share h of high means (h - 0.3) / 0.5."""
    high = np.log(0.8 / 0.3) + logit(0.4)
    low = np.log(0.2 / 0.7) + logit(0.4)
    logits = np.repeat([high, low], [420, 580])
    assert expit(em_log_odds(logits, 0.4)) == pytest.approx((0.42 - 0.3) / 0.5, abs=1e-9)
    # Fewer high scores than benign lesions alone would have: none malignant, less half a lesion.
    none = np.repeat([high, low], [200, 800])
    assert expit(em_log_odds(none, 0.4)) == pytest.approx(1 / 2000)


def test_em_comes_to_rest_there() -> None:
    """Saerens et al., Eq. 2.9, iterated from the reference."""
    rng = np.random.default_rng(0)
    x, _ = site(rng, 400, 0.12)
    p = expit(calibrated(x, 0.45))
    prevalence = 0.45
    for _ in range(3000):
        malignant, benign = prevalence / 0.45 * p, (1 - prevalence) / 0.55 * (1 - p)
        prevalence = float(np.mean(malignant / (malignant + benign)))
    assert expit(em_log_odds(calibrated(x, 0.45), 0.45)) == pytest.approx(prevalence, abs=1e-8)


@pytest.mark.parametrize(("prevalence", "lesions"), [(0.1, 300), (0.3, 300), (0.6, 150)])
def test_the_interval_covers_the_prevalence_of_the_population(prevalence: float, lesions: int) -> None:
    """400 sites each: at least 95 % less 3 standard errors and a point for the percentile method."""
    rng, covered, values = np.random.default_rng(int(100 * prevalence)), 0, []
    for _ in range(400):
        x, _ = site(rng, lesions, prevalence)
        found = estimate_prior_shift(calibrated(x, 0.35), 0.35, resamples=200, rng=rng)
        covered += found.lower <= prevalence <= found.upper
        values.append(found.prevalence)
        assert found.log_odds == pytest.approx(logit(found.prevalence) - logit(0.35))
    assert covered / 400 > 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5 - 0.01
    assert np.mean(values) == pytest.approx(prevalence, abs=0.012)


def test_replicates_equal_em_on_resampled_lesions() -> None:
    """The grid's crossings against the root itself: the interval of a plain loop, same number of draws."""
    rng = np.random.default_rng(5)
    x, _ = site(rng, 120, 0.25)
    logits = calibrated(x, 0.5)
    loop = [float(expit(em_log_odds(rng.choice(logits, 120), 0.5))) for _ in range(1500)]
    found = estimate_prior_shift(logits, 0.5, resamples=1500, rng=np.random.default_rng(6))
    assert (found.lower, found.upper) == pytest.approx(tuple(np.quantile(loop, [0.025, 0.975])), abs=0.02)


def test_overconfident_logits_mislead_em_and_calibration_with_an_intercept_mends_it() -> None:
    """Alexandari et al. 2020: the same network, its logits 2.5 times too large and 1.5 too high."""
    rng = np.random.default_rng(2)
    x_reference, y_reference = site(rng, 4000, 0.4)
    x, _ = site(rng, 4000, 0.1)

    def network(raw: Floats) -> Floats:
        return 2.5 * calibrated(raw, 0.4) + 1.5

    wrong = expit(em_log_odds(network(x), 0.4))
    platt = fit_platt(network(x_reference), y_reference)
    right = expit(em_log_odds(platt.logits(network(x)), 0.4))
    assert abs(wrong - 0.1) > 0.02
    assert abs(right - 0.1) < 0.015


def test_nothing_and_impossible_references_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one unlabelled lesion"):
        em_log_odds(np.empty(0), 0.3)
    with pytest.raises(ValueError, match="between 0 and 1, found 1"):
        em_log_odds(np.zeros(3), 1.0)
