"""The choice of a calibration map for a calibration split, by cross-validation."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from scipy.special import logit
from sklearn.model_selection import RepeatedKFold
from threadpoolctl import threadpool_limits

from fedderm.evaluation.calibration_maps import (
    IDENTITY,
    KNOT_LESIONS,
    Bools,
    CalibrationMap,
    fit_beta,
    fit_isotonic,
    fit_platt,
    fit_temperature,
)
from fedderm.evaluation.counts import Counts
from fedderm.evaluation.prior_shift import em_log_odds, estimate_prior_shift
from fedderm.evaluation.scores import Floats, Scores

__all__ = ["FEWEST", "IDENTITY", "CalibrationMap", "Choice", "choose_calibration", "log_losses", "rows_of"]

FEWEST: Final = 10
"""A site's own map needs this many lesions of either kind (a choice)."""

FEWEST_ISOTONIC: Final = 200
"""An isotonic map needs this many lesions of either kind (a choice).

Niculescu-Mizil and Caruana, "Predicting Good Probabilities with Supervised Learning", ICML 2005, found
isotonic regression worse than Platt's map below about 1,000 cases, at prevalences around one in four.
"""

RESAMPLES: Final = 1000
"""Behind the interval of a prevalence that was estimated without labels."""

FOLDS: Final = 5
REPEATS: Final = 4

Fit = Callable[[Floats, Bools], CalibrationMap]


@dataclass(frozen=True)
class Choice:
    """A calibration map and one sentence on why it was chosen."""

    map: CalibrationMap
    sentence: str


def log_losses(logits: Floats, positive: Bools) -> Floats:
    """Return the negative log-likelihood (nats) of each calibrated logit, ``(N,)``."""
    return np.asarray(np.logaddexp(0.0, np.where(positive, -logits, logits)))


def rows_of(data: Scores | Counts) -> tuple[Floats, Bools]:
    """Return (logits, positive), one row per lesion; from counts, each lesion stands at its bin's centre."""
    if isinstance(data, Scores):
        lesions = data.per_lesion()
        return lesions.triage, lesions.positive
    scores, weights = data.weighted("lesion")
    times = weights.astype(np.intp)
    return np.repeat(scores.triage, times), np.repeat(scores.positive, times)


def choose_calibration(
    data: Scores | Counts,
    keep: CalibrationMap,
    seed: int,
    *,
    reference_prevalence: float | None = None,
    min_cell: int = 0,
) -> Choice:
    """Return the map for a calibration split, by cross-validated log loss of lesions.

    Candidates, from the simplest: ``keep`` (the map already in force), identity, ``keep`` with EM's prior
    shift (where ``reference_prevalence``, that of the lesions behind ``keep``, is known), temperature, Platt,
    beta, isotonic (from FEWEST_ISOTONIC lesions of either kind; each knot stands for at least ``min_cell`` of
    them, for the map leaves the site). The simplest is taken whose loss is within one standard error of the
    best (Breiman et al., "Classification and Regression Trees", 1984, sec. 3.4.3), which keeps ``keep`` on
    few lesions, where a lucky fit makes calibration worse. With fewer than FEWEST malignant or benign lesions
    ``keep`` stays.
    """
    logits, positive = rows_of(data)
    p = int(np.count_nonzero(positive))
    fewest = min(p, len(positive) - p)
    if fewest < FEWEST:
        found = f"{p} malignant and {len(positive) - p} benign lesions"
        return Choice(keep, f"the {keep.kind} calibration stays: {found}, a new map needs {FEWEST} of each")
    fits = _candidates(keep, reference_prevalence, fewest, min_cell)
    # Under threads, the optimiser's tiny matrix products cost ten times what they compute.
    with threadpool_limits(limits=1, user_api="blas"):
        losses = _cross_validated(logits, positive, fits, seed)
        name = simplest_good(losses)
        chosen = fits[name](logits, positive)
    size = f"{len(logits)} lesions, {p} malignant"
    if fewest < FEWEST_ISOTONIC:
        size += f"; isotonic not tried, it needs {FEWEST_ISOTONIC} of each kind"
    if name == "keep":
        sentence = (
            f"the {keep.kind} calibration stays: no other map was better by more than one standard error in "
            f"cross-validation ({size})"
        )
        return Choice(keep, sentence)
    what = f"{name} calibration"
    if name == "prior" and reference_prevalence is not None:
        what = _prior_words(keep, logits, reference_prevalence, seed)
    against = (
        f"log loss {losses[name].mean():.3f}; {losses['keep'].mean():.3f} with the {keep.kind} map before"
    )
    return Choice(chosen, f"{what}, chosen by cross-validation on {size} ({against})")


def _prior_words(keep: CalibrationMap, logits: Floats, reference_prevalence: float, seed: int) -> str:
    rng = np.random.default_rng(seed)
    found = estimate_prior_shift(keep.logits(logits), reference_prevalence, resamples=RESAMPLES, rng=rng)
    return (
        f"{keep.kind} calibration before, moved from a prevalence of {reference_prevalence:.2f} to "
        f"{found.prevalence:.2f} [{found.lower:.2f}, {found.upper:.2f}], estimated without labels"
    )


def simplest_good(losses: dict[str, Floats]) -> str:
    """Return the first candidate whose mean loss is within one standard error of the lowest.

    The standard error is that of the mean difference of paired losses ``(N,)``.
    """
    best = min(losses, key=lambda name: float(losses[name].mean()))
    for name, loss in losses.items():
        excess = loss - losses[best]
        if excess.mean() <= excess.std() / np.sqrt(len(excess)):
            return name
    return best


def _candidates(
    keep: CalibrationMap, reference_prevalence: float | None, fewest: int, min_cell: int
) -> dict[str, Fit]:
    """Return the candidates by name, from the simplest."""
    fits: dict[str, Fit] = {"keep": lambda *_: keep, "identity": lambda *_: IDENTITY}
    if reference_prevalence is not None:
        fits["prior"] = partial(_prior_shifted, keep, reference_prevalence)
    fits |= {"temperature": fit_temperature, "platt": fit_platt, "beta": fit_beta}
    if fewest >= FEWEST_ISOTONIC:
        fits["isotonic"] = partial(fit_isotonic, knot_lesions=max(KNOT_LESIONS, min_cell))
    return fits


def _prior_shifted(
    keep: CalibrationMap, reference_prevalence: float, logits: Floats, _: Bools
) -> CalibrationMap:
    reference = float(logit(reference_prevalence))
    return keep.shifted(em_log_odds(keep.logits(logits), reference_prevalence) - reference)


def _cross_validated(logits: Floats, positive: Bools, fits: dict[str, Fit], seed: int) -> dict[str, Floats]:
    """Return each candidate's log loss of every lesion, ``(N,)``, mean over repeats."""
    # Sorted rows, so that the folds do not depend on the order in which lesions were loaded.
    order = np.lexsort((logits, positive))
    logits, positive = logits[order], positive[order]
    # Not stratified: folds of equal prevalence would hide how uncertain the prevalence is, and favour Platt.
    splitter = RepeatedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=seed % 2**32)
    folds = list(splitter.split(logits))
    losses = {name: np.zeros(len(logits)) for name in fits}
    for name, fit in fits.items():
        for rest, held in folds:
            fitted = fit(logits[rest], positive[rest])
            losses[name][held] += log_losses(fitted.logits(logits[held]), positive[held]) / REPEATS
    return losses
