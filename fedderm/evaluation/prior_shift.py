"""The prevalence at a site from unlabelled lesions, and the shift of log odds that follows.

Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori Probabilities",
Neural Computation 14 (2002), Eq. 2.9: EM on calibrated probabilities. It assumes that malignant lesions look
as they do at the reference, and benign ones too: only their shares differ. Alexandari, Kundaje and Shrikumar
(ICML 2020, 1901.06852): EM is as good as the calibration before it, which must have an intercept.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from fedderm.evaluation.intervals import LEVEL, lesion_weights
from fedderm.evaluation.scores import Floats

_GRID: Final = np.linspace(-12, 12, 385)
"""Log odds of the prevalence at which replicates are judged, 1/16 apart; straight between."""


@dataclass(frozen=True)
class PriorShift:
    """An estimated prevalence of malignant lesions with its 95 % interval, and its distance."""

    prevalence: float
    lower: float
    upper: float
    log_odds: float
    """``logit(prevalence) - logit(reference)``: what a map must add to its log odds."""


def estimate_prior_shift(
    calibrated: Floats, reference_prevalence: float, *, resamples: int, rng: np.random.Generator
) -> PriorShift:
    """Return the prevalence among unlabelled lesions, with a bootstrap of lesions.

    ``calibrated``: ``(L,)`` calibrated logits, one a lesion, of a map fitted where the prevalence was
    ``reference_prevalence``. The interval holds the chance of drawing these lesions, not the map's error.
    Raises ValueError for no lesion and for a reference outside (0, 1).
    """
    best = em_log_odds(calibrated, reference_prevalence)
    start = float(logit(reference_prevalence))
    gradients = _gradients(calibrated - start)
    found = []
    for weights in lesion_weights(np.zeros(len(calibrated), np.int64), resamples, rng):
        found.append(_crossings(weights @ gradients))
    replicates = np.clip(np.concatenate(found), *_limits(len(calibrated)))
    lower, upper = expit(np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])).tolist()
    value = float(expit(best))
    return PriorShift(value, min(lower, value), max(upper, value), best - start)


def em_log_odds(calibrated: Floats, reference_prevalence: float) -> float:
    """Return the log odds of the prevalence at which EM comes to rest.

    EM climbs the likelihood of the mixture, which is concave in the prevalence and so has one top; it is
    found as the root of its slope. Where the top is at 0 or 1, half a lesion of the other kind is left, so
    that log odds stay finite. Raises ValueError as ``estimate_prior_shift`` does.
    """
    if len(calibrated) == 0:
        raise ValueError("prior shift: expected at least one unlabelled lesion, found none")
    if not 0 < reference_prevalence < 1:
        raise ValueError(
            f"prior shift: the reference prevalence must lie between 0 and 1, found {reference_prevalence:g}"
        )
    likelihood_ratio = calibrated - logit(reference_prevalence)

    def gradient(log_odds: float) -> float:
        return float(np.mean(expit(likelihood_ratio + log_odds)) - expit(log_odds))

    low, high = _limits(len(calibrated))
    if gradient(low) <= 0:
        return low
    if gradient(high) >= 0:
        return high
    return float(brentq(gradient, low, high, xtol=1e-12))


def _limits(lesions: int) -> tuple[float, float]:
    edge = float(np.log(2 * lesions - 1)) if lesions > 1 else float(np.log(3))
    return -edge, edge


def _gradients(likelihood_ratio: Floats) -> Floats:
    """``(L, G)`` each lesion's share in the slope of the likelihood at the grid's log odds."""
    return np.asarray(expit(likelihood_ratio[:, None] + _GRID) - expit(_GRID))


def _crossings(gradients: Floats) -> Floats:
    """``(B,)`` the log odds at which rows ``(B, G)`` of slopes turn from rising to falling."""
    rising = gradients > 0
    # The likelihood is concave in the prevalence: once it falls, it falls for good.
    first = np.argmin(rising, axis=1)
    last = np.where(rising.all(axis=1), len(_GRID) - 1, first)
    before = np.maximum(last - 1, 0)
    rows = np.arange(len(gradients))
    above, below = gradients[rows, before], gradients[rows, last]
    drop = above - below
    part = np.divide(above, drop, out=np.ones_like(drop), where=(drop > 0) & (above > 0))
    crossing = _GRID[before] + np.clip(part, 0, 1) * (_GRID[1] - _GRID[0])
    return np.asarray(np.where(last == 0, _GRID[0], crossing))
