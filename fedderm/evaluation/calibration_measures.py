"""Weighted measures of calibration that are no sums over rows, for thousands of bootstrap weightings.

Equal-mass ECE: Nguyen and O'Connor, EMNLP 2015. Slope and intercept: Cox, "Two further applications of a
model for binary regression", Biometrika 45 (1958); Van Calster et al., BMC Medicine 17 (2019): 230.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit

from fedderm.evaluation.scores import Floats

MASS_BINS: Final = 15
"""Bins of equal numbers of units, as many as the equal-width ECE has."""

NODES: Final = 512
"""Logits at which resamples are gathered for slope and intercept: ten times faster, 1e-4 from the exact."""

NEWTON_STEPS: Final = 60
WIDEST_STEP: Final = 2.0
"""Of a Newton step, in standard deviations of the logit: keeps far starts from overshooting."""


@dataclass(frozen=True, eq=False)
class CalibrationTable:
    """Rows sorted by calibrated logit, from which any weighting is measured."""

    logits: Floats
    """``(N,)`` calibrated, ascending."""
    positive: NDArray[np.bool_]
    order: NDArray[np.intp]
    """``(N,)`` which of the caller's rows stands at each place."""

    @classmethod
    def of(cls, calibrated: Floats, positive: NDArray[np.bool_]) -> "CalibrationTable":
        """Return the table of rows in any order."""
        order = np.argsort(calibrated, kind="stable")
        return cls(calibrated[order], positive[order], order)

    def measures(self, weights: Floats) -> dict[str, Floats]:
        """Return ``ece_mass``, ``calibration_slope``, ``calibration_intercept``, ``(B,)``, for ``(B, N)``
        weights of the caller's rows.

        NaN where undefined: no row at all; for slope and intercept, a class absent. The slope is infinite
        where a threshold separates the classes.
        """
        weights = weights[:, self.order]
        rows = (self.logits, self.positive, weights)
        gathered = _gathered(*rows) if len(weights) > 1 else rows
        apart = separation(*rows)
        return {
            "ece_mass": equal_mass_ece(*rows),
            # Gathering blurs a border between the classes: separation is judged by the rows themselves.
            "calibration_slope": np.where(apart == 0, cox_slope(*gathered), apart),
            "calibration_intercept": cox_intercept(*gathered),
        }


def equal_mass_ece(logits: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Return ``sum_b |sum p - sum y| / n`` over MASS_BINS bins of equal mass, ``(B,)``.

    Rows ``(N,)`` ascend; weights ``(B, N)``. A row across a border is divided between both bins, and rows of
    one probability are divided alike, so that neither their order nor repeating rows instead of weighting
    them changes anything. NaN without rows.
    """
    n = weights.sum(axis=1)
    if len(logits) == 0:
        return np.full(len(weights), np.nan)
    last = np.append(np.flatnonzero(np.diff(logits)), len(logits) - 1)
    mass, gap = (
        np.concatenate([np.zeros((len(weights), 1)), np.cumsum(values, axis=1)[:, last]], axis=1)
        for values in (weights, weights * (expit(logits) - positive))
    )
    borders = n[:, None] * np.linspace(0, 1, MASS_BINS + 1)
    at = np.array([np.interp(*row) for row in zip(borders, mass, gap, strict=True)])
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(np.diff(at, axis=1)).sum(axis=1) / n)


def cox_intercept(logits: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Return a in ``logit P(malignant) = a + logit p``, ``(B,)``, for weights ``(B, N)``; 0 is ideal.

    Above 0, risk is underestimated. NaN where a class is absent.
    """
    found = np.full(len(weights), np.nan)
    fit = (weights[:, positive].sum(axis=1) > 0) & (weights[:, ~positive].sum(axis=1) > 0)
    if fit.any():
        found[fit] = _newton(np.zeros((len(logits), 0)), logits, positive, weights[fit])[:, 0]
    return found


def cox_slope(logits: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Return b in ``logit P(malignant) = a + b logit p``, ``(B,)``, for weights ``(B, N)``; 1 is ideal.

    Below 1, probabilities are too extreme. Logits must ascend. Plus or minus infinity where a threshold
    separates the classes: no finite slope is best. NaN where a class is absent or all logits are equal.
    """
    found = separation(logits, positive, weights)
    fit = found == 0
    if fit.any():
        centre, scale = float(logits.mean()), float(logits.std())
        z = (logits[:, None] - centre) / scale
        found[fit] = _newton(z, np.zeros(len(logits)), positive, weights[fit])[:, 1] / scale
    return found


def _gathered(
    logits: Floats, positive: NDArray[np.bool_], weights: Floats
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Return rows of either class at no more than NODES common logits, with their weights ``(B, 2 NODES)``.

    Each row is divided between the nodes beside it so that its logit is the mean: numbers and sums of
    logits stay, and only the curvature between two nodes is lost.
    """
    nodes = np.unique(logits)
    if len(nodes) > NODES:
        nodes = np.unique(np.quantile(nodes, np.linspace(0, 1, NODES)))
    if len(nodes) < 2:
        return logits, positive, weights
    above = np.clip(np.searchsorted(nodes, logits, side="left"), 1, len(nodes) - 1)
    part = (logits - nodes[above - 1]) / (nodes[above] - nodes[above - 1])
    rows, columns = np.arange(len(logits)), above + len(nodes) * positive
    share = csr_array(
        (np.concatenate([1 - part, part]), (np.tile(rows, 2), np.concatenate([columns - 1, columns]))),
        shape=(len(logits), 2 * len(nodes)),
    )
    sums = np.asarray((share.T @ weights.T).T)
    # Ascending logits, as the rows had; the malignant after the benign at each node.
    order = np.arange(2 * len(nodes)).reshape(2, -1).T.ravel()
    return np.repeat(nodes, 2), np.tile([False, True], len(nodes)), np.ascontiguousarray(sums[:, order])


def separation(logits: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Return ``(B,)`` 0 where the classes overlap, else the infinity to which the slope would run.

    Albert and Anderson, Biometrika 71 (1984): a logistic regression has a finite best slope only where no
    threshold separates the classes, a border shared by both counted as separation. Logits must ascend. NaN
    where a class is absent or all logits are equal.
    """
    if positive.all() or not positive.any():
        return np.full(len(weights), np.nan)
    ends = []
    for side in (positive, ~positive):
        there, x = weights[:, side] > 0, logits[side]
        lowest, highest = x[there.argmax(axis=1)], x[len(x) - 1 - there[:, ::-1].argmax(axis=1)]
        ends.append((there.any(axis=1), lowest, highest))
    (some, low, high), (others, other_low, other_high) = ends
    above, below = low >= other_high, high <= other_low
    found = np.where(above, np.inf, np.where(below, -np.inf, 0.0))
    return np.where(some & others & ~(above & below), found, np.nan)


def _newton(features: Floats, offset: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Return ``(B, 1 + K)`` logistic regressions, intercept first, on ``(N, K)`` features, K = 0 or 1."""
    design = np.concatenate([np.ones((len(features), 1)), features], axis=1)
    products = np.einsum("ni,nj->nij", design, design).reshape(len(design), -1)
    k = design.shape[1]
    # All weightings start from the fit of their sum, which is close to each of them.
    total = weights.sum(axis=0, keepdims=True)
    parameters: Floats = np.zeros((1, k)) if len(weights) == 1 else _newton(features, offset, positive, total)
    parameters = np.repeat(parameters, len(weights), axis=0)
    for _ in range(NEWTON_STEPS):
        p = expit(parameters @ design.T + offset)
        gradient = (weights * (positive - p)) @ design
        hessian = ((weights * p * (1 - p)) @ products).reshape(-1, k, k)
        # Where all rows are sure of themselves the curvature vanishes; the step is then cut.
        hessian += 1e-12 * np.eye(k) * weights.sum(axis=1)[:, None, None]
        step = np.clip(np.linalg.solve(hessian, gradient[..., None])[..., 0], -WIDEST_STEP, WIDEST_STEP)
        parameters = parameters + step
        if np.abs(step).max() < 1e-9:
            break
    parameters[np.abs(step).max(axis=1) > 1e-6] = np.nan
    return parameters
