"""Weighted metrics of ranking, for one weighting or for thousands of bootstrap weightings of one sorting."""

import numpy as np

from fedderm.evaluation.scores import Floats, Scores


def auc(positive: Floats, negative: Floats, positive_weight: Floats, negative_weight: Floats) -> Floats:
    """Return the weighted Mann-Whitney AUC, ties one half, ``(...)`` for weights ``(..., P)``, ``(..., N)``.

    ``negative`` must ascend. NaN where the weights of a class sum to zero. O(P log N + N) a weighting, so
    that thousands of bootstrap weightings of one sorting are cheap.
    """
    below = np.searchsorted(negative, positive, side="left")
    upto = np.searchsorted(negative, positive, side="right")
    mass = _cumulated(negative_weight)
    won = (positive_weight * (mass[..., below] + mass[..., upto])).sum(axis=-1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(won / (positive_weight.sum(axis=-1) * mass[..., -1]))


def average_precision(
    positive: Floats, negative: Floats, positive_weight: Floats, negative_weight: Floats
) -> Floats:
    """Return the weighted average precision, scikit-learn's ``sum_n (R_n - R_n-1) P_n``, ``(...)``.

    Arguments as ``auc``'s; both score arrays must ascend. Each malignant row counts the precision at its own
    score, tied rows included. NaN where the weights of a class sum to zero.
    """
    own, other = _cumulated(positive_weight), _cumulated(negative_weight)
    found = own[..., -1:] - own[..., np.searchsorted(positive, positive, side="left")]
    wrong = other[..., -1:] - other[..., np.searchsorted(negative, positive, side="left")]
    with np.errstate(invalid="ignore", divide="ignore"):
        # A row of weight zero may have no row at or above its score: it counts nothing.
        precision = np.where(positive_weight > 0, found / (found + wrong), 0.0)
        total = np.where(other[..., -1] > 0, own[..., -1], 0.0)
        return np.asarray((positive_weight * precision).sum(axis=-1) / total)


def weighted_ranking(scores: Scores, weights: Floats) -> dict[str, float]:
    """Return ``auc`` and ``average_precision`` of rows that stand for ``weights`` units each."""
    order = np.argsort(scores.triage, kind="stable")
    triage, positive, weights = scores.triage[order], scores.positive[order], weights[order]
    sides = (triage[positive], triage[~positive], weights[positive], weights[~positive])
    return {"auc": float(auc(*sides)), "average_precision": float(average_precision(*sides))}


def _cumulated(weights: Floats) -> Floats:
    """``(..., N + 1)`` sums of the first rows' weights, from none to all."""
    mass = np.zeros((*weights.shape[:-1], weights.shape[-1] + 1))
    np.cumsum(weights, axis=-1, out=mass[..., 1:])
    return mass
