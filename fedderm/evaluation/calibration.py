"""Calibration maps ``p = sigmoid(slope * logit + intercept)`` and the choice among them.

Temperature: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Platt: "Probabilistic Outputs
for Support Vector Machines", 1999, with its smoothed targets, as in Lin, Lin and Weng, Machine Learning 68
(2007).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.model_selection import RepeatedKFold
from threadpoolctl import threadpool_limits

from fedderm.evaluation.counts import Counts
from fedderm.evaluation.documents import CalibrationKind, OperatingPoint
from fedderm.evaluation.scores import Floats, Scores

Bools = NDArray[np.bool_]

SMALLEST_SLOPE: Final = 0.01
"""A map never turns the order of the scores around, nor flattens them altogether."""

FEWEST: Final = 10
"""A site's own map needs this many lesions of either kind (a choice)."""

FOLDS: Final = 5
REPEATS: Final = 4


@dataclass(frozen=True)
class CalibrationMap:
    """``p = sigmoid(slope * logit + intercept)``."""

    kind: CalibrationKind = "identity"
    slope: float = 1.0
    intercept: float = 0.0

    @classmethod
    def of(cls, point: OperatingPoint) -> "CalibrationMap":
        """Return the map of an operating point."""
        return cls(point.calibration, point.slope, point.intercept)

    def logits(self, triage: Floats) -> Floats:
        """Return calibrated logits for raw ones, any shape."""
        return np.asarray(self.slope * triage + self.intercept)

    def probabilities(self, triage: Floats) -> Floats:
        """Return calibrated probabilities of malignancy for raw logits, any shape."""
        return np.asarray(expit(self.logits(triage)), dtype=np.float64)


IDENTITY: Final = CalibrationMap()


@dataclass(frozen=True)
class Choice:
    """A calibration map and one sentence on why it was chosen."""

    map: CalibrationMap
    sentence: str


def fit_temperature(logits: Floats, positive: Bools) -> CalibrationMap:
    """Return the map ``sigmoid(logit / T)`` of maximum likelihood; ``slope = 1 / T``.

    Targets are smoothed as Platt's are, so that separable data give a finite slope. Without any data: the
    identity.
    """
    if len(logits) == 0:
        return IDENTITY
    slope, _ = _fit(logits, positive, with_intercept=False)
    return CalibrationMap("temperature", slope, 0.0)


def fit_platt(logits: Floats, positive: Bools) -> CalibrationMap:
    """Return Platt's map: logistic regression on the logit with targets (P+1)/(P+2) and 1/(N+2).

    The slope is kept at SMALLEST_SLOPE or above. Without any data: the identity.
    """
    if len(logits) == 0:
        return IDENTITY
    slope, intercept = _fit(logits, positive, with_intercept=True)
    return CalibrationMap("platt", slope, intercept)


def smoothed_targets(positive: Bools) -> Floats:
    """Return Platt's targets, ``(N,)``: (P+1)/(P+2) for the malignant, 1/(N+2) for the benign."""
    p = int(np.count_nonzero(positive))
    return np.where(positive, (p + 1) / (p + 2), 1 / (len(positive) - p + 2))


def log_losses(logits: Floats, positive: Bools) -> Floats:
    """Return the negative log-likelihood (nats) of each calibrated logit, ``(N,)``."""
    return np.asarray(np.logaddexp(0.0, np.where(positive, -logits, logits)))


def _fit(logits: Floats, positive: Bools, *, with_intercept: bool) -> tuple[float, float]:
    # Standardised logits make the two parameters about equally stiff; without an intercept the origin must
    # stay.
    shift = float(logits.mean()) if with_intercept else 0.0
    scale = float(np.sqrt(np.mean((logits - shift) ** 2))) or 1.0
    z, targets = (logits - shift) / scale, smoothed_targets(positive)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        u = parameters[0] * z + parameters[1]
        residual = expit(u) - targets
        gradient = np.array([residual @ z, residual.sum() if with_intercept else 0.0])
        return float(np.mean(np.logaddexp(0.0, u) - targets * u)), gradient / len(z)

    bounds = [(SMALLEST_SLOPE * scale, None), (None, None) if with_intercept else (0.0, 0.0)]
    start = np.array([max(scale, SMALLEST_SLOPE * scale), 0.0])
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9}
    )
    slope = float(found.x[0]) / scale
    return slope, float(found.x[1]) - slope * shift


def rows_of(data: Scores | Counts) -> tuple[Floats, Bools]:
    """Return (logits, positive), one row per lesion; from counts, each lesion stands at its bin's centre."""
    if isinstance(data, Scores):
        lesions = data.per_lesion()
        return lesions.triage, lesions.positive
    scores, weights = data.weighted("lesion")
    times = weights.astype(np.intp)
    return np.repeat(scores.triage, times), np.repeat(scores.positive, times)


def choose_calibration(data: Scores | Counts, keep: CalibrationMap, seed: int) -> Choice:
    """Return the map for a calibration split, by cross-validated log loss of lesions.

    Candidates: ``keep`` (the map already in force), identity, temperature and Platt. The best replaces
    ``keep`` only where it is better by more than one standard error (Breiman et al., "Classification and
    Regression Trees", 1984, sec. 3.4.3): on few lesions a lucky fit makes calibration worse. With fewer than
    FEWEST malignant or benign lesions ``keep`` stays.
    """
    logits, positive = rows_of(data)
    p = int(np.count_nonzero(positive))
    if min(p, len(positive) - p) < FEWEST:
        found = f"{p} malignant and {len(positive) - p} benign lesions"
        return Choice(keep, f"the {keep.kind} calibration stays: {found}, a new map needs {FEWEST} of each")
    # Under threads, the optimiser's tiny matrix products cost ten times what they compute.
    with threadpool_limits(limits=1, user_api="blas"):
        losses = _cross_validated(logits, positive, keep, seed)
        best = min(losses, key=lambda name: float(losses[name].mean()))
        gain = losses["keep"] - losses[best]
        size = f"{len(logits)} lesions, {p} malignant"
        if gain.mean() <= gain.std() / np.sqrt(len(gain)):
            return Choice(
                keep,
                f"the {keep.kind} calibration stays: no other map was better by more than one standard error "
                f"in cross-validation ({size})",
            )
        chosen = IDENTITY if best == "identity" else _FITS[best](logits, positive)
    against = (
        f"log loss {losses[best].mean():.3f}; {losses['keep'].mean():.3f} with the {keep.kind} map before"
    )
    return Choice(chosen, f"{chosen.kind} calibration, chosen by cross-validation on {size} ({against})")


_FITS: Final = {"temperature": fit_temperature, "platt": fit_platt}


def _cross_validated(logits: Floats, positive: Bools, keep: CalibrationMap, seed: int) -> dict[str, Floats]:
    """Return each candidate's log loss of every lesion, ``(N,)``, mean over repeats."""
    # Sorted rows, so that the folds do not depend on the order in which lesions were loaded.
    order = np.lexsort((logits, positive))
    logits, positive = logits[order], positive[order]
    losses = {"keep": log_losses(keep.logits(logits), positive), "identity": log_losses(logits, positive)}
    # Not stratified: folds of equal prevalence would hide how uncertain the prevalence is, and favour Platt.
    splitter = RepeatedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=seed % 2**32)
    folds = list(splitter.split(logits))
    for name, fit in _FITS.items():
        losses[name] = np.zeros(len(logits))
        for rest, held in folds:
            fitted = fit(logits[rest], positive[rest])
            losses[name][held] += log_losses(fitted.logits(logits[held]), positive[held]) / REPEATS
    return losses
