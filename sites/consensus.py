"""The consensus of several annotators on one yes-or-no question, and what each annotator is worth.

Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", Applied
Statistics 28 (1979) 20-28, for two classes and at most one label per annotator and image; labels may be
missing. Images with the same answers are one row with a count, so that a bootstrap is a matter of counts.
Shapes: N images, J annotators, U distinct rows of answers, B bootstrap draws.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST: Final = 3
"""With fewer annotators an image, error rates do not follow from the answers (Dawid and Skene, section 4)."""
_STEPS: Final = 500
_CLOSE: Final = 1e-7
_EDGE: Final = 1e-6  # a rate of exactly 0 or 1 would never be left again


@dataclass(frozen=True)
class Consensus:
    """``probability`` (N,): P(present) of each image, NaN where nobody judged; ``sensitivity`` and
    ``specificity`` (J,): of each annotator, NaN where it cannot be told; ``prevalence``: of the pattern."""

    probability: Floats
    prevalence: float
    sensitivity: Floats
    specificity: Floats

    def labels(self) -> Floats:
        """Return 1 where the pattern is more likely present than not, else 0; NaN where nobody judged."""
        return np.where(np.isnan(self.probability), np.nan, (self.probability > 0.5).astype(float))


@dataclass(frozen=True)
class Intervals:
    """Ends of the 95 % intervals, (J, 2) each."""

    sensitivity: Floats
    specificity: Floats


def majority(answers: Floats) -> Floats:
    """Return the share (N,) of annotators who say present; 0.5 is a tie, NaN where nobody judged.

    ``answers`` (N, J): 1, 0 or NaN.
    """
    given = ~np.isnan(answers)
    votes = given.sum(axis=1)
    return np.where(votes > 0, np.where(given, answers, 0).sum(axis=1) / np.maximum(votes, 1), np.nan)


def consensus(answers: Floats) -> Consensus:
    """Return the maximum-likelihood consensus of ``answers`` (N, J): 1, 0 or NaN.

    It starts at the majority's vote, which also says which of the two classes is "present". With one
    annotator it is what that one says.
    """
    rows, back, counts = np.unique(answers, axis=0, return_inverse=True, return_counts=True, equal_nan=True)
    judged = (~np.isnan(rows)).any(axis=1)
    if not judged.any():
        nothing = np.full(answers.shape[1], np.nan)
        return Consensus(np.full(len(answers), np.nan), float("nan"), nothing, nothing)
    weights = (counts * judged).astype(float)[None]
    posterior, prevalence, sensitivity, specificity = _em(rows, weights)
    whole = np.where(judged, posterior[0], np.nan)[back.reshape(-1)]
    return Consensus(whole, float(prevalence[0]), sensitivity[0], specificity[0])


def intervals(answers: Floats, seed: int, resamples: int = 1000) -> Intervals:
    """Return percentile intervals from ``resamples`` bootstrap draws of images; NaN where there is no value.

    Raises ValueError where no image is judged.
    """
    rows, counts = np.unique(answers, axis=0, return_counts=True, equal_nan=True)
    judged = (~np.isnan(rows)).any(axis=1)
    if not judged.any():
        raise ValueError("annotations: no image is judged; there is nothing to resample")
    rows, counts = rows[judged], counts[judged]
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples).astype(float)
    _, _, sensitivity, specificity = _em(rows, drawn)
    return Intervals(_ends(sensitivity), _ends(specificity))


def _em(rows: Floats, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return posterior (B, U), prevalence (B,), sensitivity and specificity (B, J) for ``weights`` (B, U).

    Equations 2.3 to 2.5 of the paper, until no rate moves.
    """
    given = ~np.isnan(rows)
    yes, no = np.where(given, rows, 0.0), np.where(given, 1 - rows, 0.0)
    posterior = np.tile(np.nan_to_num(majority(rows), nan=0.5), (len(weights), 1))
    before = np.zeros(0)
    for _ in range(_STEPS):
        present, absent = weights * posterior, weights * (1 - posterior)
        prevalence = present.sum(axis=1) / np.maximum(weights.sum(axis=1), _EDGE)
        with np.errstate(invalid="ignore", divide="ignore"):
            sensitivity = (present @ yes) / (present @ given)
            specificity = (absent @ no) / (absent @ given)
        a, b, p = (
            np.clip(np.nan_to_num(one, nan=0.5), _EDGE, 1 - _EDGE)
            for one in (sensitivity, specificity, prevalence)
        )
        odds = np.log(p / (1 - p))[:, None]
        odds = odds + np.log(a / (1 - b)) @ yes.T + np.log((1 - a) / b) @ no.T
        posterior = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
        now = np.concatenate([a.ravel(), b.ravel(), p])
        if before.shape == now.shape and np.abs(now - before).max() < _CLOSE:
            break
        before = now
    return posterior, prevalence, sensitivity, specificity


def _ends(values: Floats) -> Floats:
    known = ~np.isnan(values).all(axis=0)
    found = np.full((values.shape[1], 2), np.nan)
    if known.any():
        found[known] = np.nanquantile(values[:, known], [0.025, 0.975], axis=0).T
    return found
