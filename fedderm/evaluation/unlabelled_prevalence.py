"""Prevalence of malignancy from unlabelled scores, with an interval that knows that sites differ.

The mixture weight of the training sites' benign and malignant score histograms that makes a site's histogram
most likely: Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori
Probabilities", Neural Computation 14 (2002), in its binned form, whose EM has one maximum. It assumes that
scores within a class are distributed as at the training sites. They never quite are, so each training site is
estimated in the same way from the others, and how far those estimates lie from the truth widens the interval.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from fedderm.evaluation.scores import Floats, Ints

REPLICATES: Final = 400
_ERRORS: Final = 10  # between sites, drawn for each replicate
_HALVINGS: Final = 40
_PRIOR: Final = 0.5  # of a lesion, spread over a class's bins: an empty bin is not impossible


@dataclass(frozen=True)
class UnlabelledPrevalence:
    """A prevalence estimated without labels."""

    value: float
    lower: float
    upper: float
    p_value: float
    """Of the reference prevalence."""
    between_sites: float
    """Standard deviation of the error from site to site."""


def mixture_weight(histograms: Floats, benign: Floats, malignant: Floats) -> Floats:
    """Return the malignant fraction of maximum likelihood of each ``(R, J)`` histogram, ``(R,)``.

    ``benign`` and ``malignant``, ``(R, J)`` or ``(J,)``, are distributions, positive in every bin. The
    likelihood's derivative falls with the weight, so it is bisected; EM would get there more slowly.
    """
    low, high = np.zeros(len(histograms)), np.ones(len(histograms))
    difference = malignant - benign
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        slope = (histograms * difference / (benign + middle[:, None] * difference)).sum(axis=1)
        low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    return np.asarray((low + high) / 2)


def unlabelled_prevalence(
    histogram: Ints,
    by_site: Ints,
    reference: float,
    widening: float,
    rng: np.random.Generator,
    level: float = 0.95,
) -> UnlabelledPrevalence:
    """Return the prevalence behind ``histogram`` (J,) given labelled ones ``by_site`` (K, 2, J).

    ``reference`` is the prevalence it is tested against. ``widening`` >= 1 multiplies the variance between
    sites: that of a site which departs more from the training sites than they do from one another. The
    interval holds the site's sampling error, the reference's, and the error from site to site, as Student's
    t with K - 1 degrees of freedom.
    """
    estimate, replicates = _estimate(histogram, by_site.sum(axis=0), rng)
    between = np.sqrt(widening) * _between_sites(by_site, rng)
    error = between * rng.standard_t(max(1, len(by_site) - 1), (_ERRORS, REPLICATES))
    # Errors add up on the prevalence's own scale: a shift of scores moves the estimate by as much at 5 % as
    # at 50 %, and at 0 log odds have no end.
    drawn = (replicates + error).ravel()
    tail = (1 - level) / 2
    lower, upper = np.clip(np.quantile(drawn, (tail, 1 - tail)), 0, 1)
    below = float(np.mean(drawn <= reference))
    return UnlabelledPrevalence(
        estimate,
        min(float(lower), estimate),
        max(float(upper), estimate),
        min(1.0, 2 * min(below, 1 - below)),
        float(between),
    )


def _estimate(histogram: Ints, labelled: Ints, rng: np.random.Generator) -> tuple[float, Floats]:
    """Return the estimate and its replicates, ``(REPLICATES,)``, of site and reference redrawn."""
    n = int(histogram.sum())
    shape = _smoothed(labelled.astype(np.float64))
    benign, malignant = (
        _smoothed(rng.multinomial(int(counts.sum()), p, REPLICATES).astype(np.float64))
        for counts, p in zip(labelled, shape, strict=True)
    )
    site = rng.multinomial(n, histogram / n, REPLICATES).astype(np.float64)
    found = mixture_weight(histogram[None].astype(np.float64), shape[:1], shape[1:])
    return float(found[0]), mixture_weight(site, benign, malignant)


def _smoothed(counts: Floats) -> Floats:
    return np.asarray((counts + _PRIOR / counts.shape[-1]) / (counts.sum(axis=-1, keepdims=True) + _PRIOR))


def _between_sites(by_site: Ints, rng: np.random.Generator) -> float:
    """Return the standard deviation of the estimates' error between sites, beyond sampling.

    Every site is estimated from the others, without its labels.
    """
    squares = []
    for own in by_site:
        others = by_site.sum(axis=0) - own
        if own.sum() == 0 or others.sum(axis=1).min() == 0:
            continue
        estimate, replicates = _estimate(own.sum(axis=0), others, rng)
        truth = own[1].sum() / own.sum()
        squares.append((estimate - truth) ** 2 - float(replicates.var()))
    return float(np.sqrt(max(0.0, float(np.mean(squares))))) if squares else 0.0
