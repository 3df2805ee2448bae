"""Calibration maps from raw triage logits to probabilities of malignancy, and their fits.

Temperature: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Platt: "Probabilistic Outputs
for Support Vector Machines", 1999, with its smoothed targets, as in Lin, Lin and Weng, Machine Learning 68
(2007). Beta: Kull, Silva Filho and Flach, "Beta calibration", AISTATS 2017, Eq. 5. Isotonic: Zadrozny and
Elkan, KDD 2002, straight between the centres of its steps as in Oron and Flournoy, "Centered Isotonic
Regression", Statistics in Biopharmaceutical Research 9 (2017).
"""

from dataclasses import dataclass, replace
from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from fedderm.evaluation.documents import CalibrationKind, OperatingPoint
from fedderm.evaluation.scores import Floats

Bools = NDArray[np.bool_]
Knots = tuple[tuple[float, float], ...]

SMALLEST_SLOPE: Final = 0.01
"""A map never turns the order of the scores around, nor flattens them altogether."""

KNOT_LESIONS: Final = 20
"""Each knot of an isotonic map stands for at least so many lesions (a choice)."""


class MapFields(TypedDict):
    """The fields of an OperatingPoint that say which map it has."""

    calibration: CalibrationKind
    slope: float
    intercept: float
    beta: tuple[float, float, float] | None
    knots: list[tuple[float, float]]
    prior_shift: float


@dataclass(frozen=True)
class CalibrationMap:
    """A map that never decreases; see OperatingPoint for what its fields mean.

    Raises ValueError for a beta map without its three numbers and for an isotonic map whose knots do not
    ascend or reach a probability of 0 or 1.
    """

    kind: CalibrationKind = "identity"
    slope: float = 1.0
    intercept: float = 0.0
    beta: tuple[float, float, float] | None = None
    knots: Knots = ()
    prior_shift: float = 0.0

    def __post_init__(self) -> None:
        if (self.kind == "beta") != (self.beta is not None) or (self.kind == "isotonic") != bool(self.knots):
            raise ValueError(
                f"calibration: a {self.kind} map has beta {self.beta} and {len(self.knots)} knots; "
                "beta belongs to beta maps, knots to isotonic ones"
            )
        where, p = np.array(self.knots).reshape(-1, 2).T
        if np.any(np.diff(where) <= 0) or np.any(np.diff(p) < 0) or np.any((p <= 0) | (p >= 1)):
            raise ValueError(
                "calibration: the knots of an isotonic map must ascend and lie between 0 and 1, "
                f"found {list(self.knots)}"
            )

    @classmethod
    def of(cls, point: OperatingPoint) -> "CalibrationMap":
        """Return the map of an operating point."""
        return cls(
            point.calibration,
            point.slope,
            point.intercept,
            point.beta,
            tuple((x, p) for x, p in point.knots),
            point.prior_shift,
        )

    def fields(self) -> MapFields:
        """Return the map as fields of an OperatingPoint: ``OperatingPoint(**map.fields(), ...)``."""
        return MapFields(
            calibration=self.kind,
            slope=self.slope,
            intercept=self.intercept,
            beta=self.beta,
            knots=list(self.knots),
            prior_shift=self.prior_shift,
        )

    def shifted(self, log_odds: float) -> "CalibrationMap":
        """Return the map with ``log_odds`` added to its prior shift."""
        return replace(self, prior_shift=self.prior_shift + log_odds)

    def logits(self, triage: Floats) -> Floats:
        """Return calibrated logits for raw ones, any shape."""
        if self.beta is not None:
            a, b, c = self.beta
            found = _log_sigmoid(triage) * a - _log_sigmoid(-triage) * b + c
        elif self.knots:
            where, p = np.array(self.knots).T
            found = logit(np.interp(triage, where, p))
        else:
            found = self.slope * triage + self.intercept
        return np.asarray(found + self.prior_shift, dtype=np.float64)

    def probabilities(self, triage: Floats) -> Floats:
        """Return calibrated probabilities of malignancy for raw logits, any shape."""
        return np.asarray(expit(self.logits(triage)), dtype=np.float64)


IDENTITY: Final = CalibrationMap()


def _log_sigmoid(x: Floats) -> Floats:
    # ln(1 - s) from s itself is lost beyond a logit of 37, and inexact long before.
    return np.asarray(-np.logaddexp(0.0, -np.asarray(x)))


def fit_temperature(logits: Floats, positive: Bools) -> CalibrationMap:
    """Return the map ``sigmoid(logit / T)`` of maximum likelihood; ``slope = 1 / T``.

    Targets are smoothed as Platt's are, so that separable data give a finite slope. Without any data: the
    identity.
    """
    if len(logits) == 0:
        return IDENTITY
    ((slope,), _) = _fit(logits[:, None], positive, with_intercept=False)
    return CalibrationMap("temperature", slope, 0.0)


def fit_platt(logits: Floats, positive: Bools) -> CalibrationMap:
    """Return Platt's map: logistic regression on the logit with targets (P+1)/(P+2) and 1/(N+2).

    The slope is kept at SMALLEST_SLOPE or above. Without any data: the identity.
    """
    if len(logits) == 0:
        return IDENTITY
    ((slope,), intercept) = _fit(logits[:, None], positive, with_intercept=True)
    return CalibrationMap("platt", slope, intercept)


def fit_beta(logits: Floats, positive: Bools) -> CalibrationMap:
    """Return the beta map ``logit p = a ln s - b ln(1 - s) + c`` of maximum likelihood, Platt's targets.

    ``a = b = 1, c = 0`` is the identity, ``a = b`` Platt's map. Kull et al. ask for ``a, b >= 0``; both are
    kept at SMALLEST_SLOPE or above, so that the map rises everywhere. Without any data: the identity.
    """
    if len(logits) == 0:
        return IDENTITY
    ends = np.stack([_log_sigmoid(logits), -_log_sigmoid(-logits)], axis=1)
    (a, b), c = _fit(ends, positive, with_intercept=True)
    return CalibrationMap("beta", beta=(a, b, c))


def fit_isotonic(logits: Floats, positive: Bools, knot_lesions: int = KNOT_LESIONS) -> CalibrationMap:
    """Return scikit-learn's isotonic regression of Platt's targets, as knots at the centres of its steps.

    Smoothed targets keep every probability within [1/(N+2), (P+1)/(P+2)], never 0 or 1. Neighbouring steps
    are joined until each holds ``knot_lesions``; a knot is a step's mean logit and mean target. One step
    gives a constant map. Without any data: the identity.
    """
    if len(logits) == 0:
        return IDENTITY
    order = np.argsort(logits, kind="stable")
    x, targets = logits[order], smoothed_targets(positive)[order]
    level = IsotonicRegression().fit_transform(x, targets)
    # A step ends where its level does; sums over whole steps, so that the means stay in order.
    ends = np.append(np.flatnonzero(np.diff(level) > 1e-12) + 1, len(x))
    kept: list[int] = []
    for end in ends.tolist():
        if end - (kept[-1] if kept else 0) >= knot_lesions:
            kept.append(end)
    starts, sizes = np.array([0, *kept[:-1]]), np.diff([0, *kept[:-1], len(x)])
    # What is left at the top joins the last step.
    centres, p = (np.add.reduceat(values, starts) / sizes for values in (x, targets))
    return CalibrationMap("isotonic", knots=tuple(zip(centres.tolist(), p.tolist(), strict=True)))


def smoothed_targets(positive: Bools) -> Floats:
    """Return Platt's targets, ``(N,)``: (P+1)/(P+2) for the malignant, 1/(N+2) for the benign."""
    p = int(np.count_nonzero(positive))
    return np.where(positive, (p + 1) / (p + 2), 1 / (len(positive) - p + 2))


def _fit(features: Floats, positive: Bools, *, with_intercept: bool) -> tuple[tuple[float, ...], float]:
    """Return the slopes of ``(N, K)`` features, none below SMALLEST_SLOPE, and the intercept."""
    # Standardised features make the parameters about equally stiff; without an intercept the origin must
    # stay.
    shift = features.mean(axis=0) if with_intercept else np.zeros(features.shape[1])
    scale = np.sqrt(np.mean((features - shift) ** 2, axis=0))
    scale[scale == 0] = 1.0
    z, targets = (features - shift) / scale, smoothed_targets(positive)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        """Return the mean cross-entropy and its gradient."""
        u = z @ parameters[:-1] + parameters[-1]
        residual = expit(u) - targets
        gradient = np.append(residual @ z, residual.sum() if with_intercept else 0.0)
        return float(np.mean(np.logaddexp(0.0, u) - targets * u)), gradient / len(z)

    lowest = SMALLEST_SLOPE * scale
    bounds = [*((low, None) for low in lowest.tolist()), (None, None) if with_intercept else (0.0, 0.0)]
    start = np.append(np.maximum(scale / len(scale), lowest), 0.0)
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9}
    )
    slopes = found.x[:-1] / scale
    return tuple(slopes.tolist()), float(found.x[-1] - slopes @ shift)
