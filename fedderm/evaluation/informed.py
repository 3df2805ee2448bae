"""A threshold for a small site, from its own malignant lesions and from the spread of other sites' quantiles.

A site's threshold may lie at most at q, the ``1 - target`` quantile of its malignant lesions' logits. Two
independent tests say whether a candidate t may lie above q:

- the federation's: q and the J training sites' quantiles are draws of one normal distribution over sites,
  so ``(q - mean) / (S sqrt(1 + 1/J))`` has Student's t with J - 1 degrees of freedom (prediction of a new
  draw: Hahn, JASA 64 (1969)). S is the standard deviation of the sites' *estimates*; their sampling error
  widens it;
- the site's: of its n malignant lesions K lie below t, and ``P(Binom(n, 1 - target) <= K)`` is a p-value
  whatever the distribution (the test behind Wilks's order statistic, see ``thresholds``).

Their normal scores are added with weights 1 and ``sqrt(n / needed)``, and the threshold is the highest t
whose sum is significant: a combination of confidence distributions (Singh, Xie and Strawderman, Annals of
Statistics 33 (2005), with Stouffer's sum). The weights, which depend on n alone, and the critical value,
exact for a discrete K, are ours. n = 0 gives the prediction bound; as n grows, the site's own lesions decide.
The guarantee is over draws of sites: at 95 %, at most 5 of 100 new sites get too high a threshold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import binom, t

from fedderm.evaluation.counts import BIN_CENTRES, BIN_EDGES, Counts, snap_down
from fedderm.evaluation.documents import Document
from fedderm.evaluation.scores import Floats
from fedderm.evaluation.thresholds import (
    certified_threshold,
    lesions,
    misses_allowed,
    percent,
    positives_needed,
)

FEWEST_SITES: Final = 3
"""Two sites have one distance between them, and the t factor of one degree of freedom is 7.7 times it (at
95 %). With three the method is useful where the site has some lesions of its own."""

FALLBACK: Final = 0.75
"""Confidence that the site's own lesions alone must give, where they are enough for it (14 for 0.90): what is
left should the site be unlike the training sites. A choice: 0.95 would leave nothing to be informed of."""

SMALLEST_SPREAD: Final = 1 / 256
"""Of quantiles read from counts: one bin. Sites that agree to the bin do not agree exactly."""


class FederationEvidence(Document):
    """What a site is told about the training sites' quantiles: no site's name, no site's own value."""

    target: float
    confidence: float
    sites: int
    """Training sites with enough malignant calibration lesions for a quantile."""
    left_out: int
    """Training sites with too few of them, or none that their policy shows."""
    lesions: int
    """Malignant calibration lesions of the ``sites``."""
    centre: float | None
    """Mean of the sites' quantiles, raw logit; None with fewer than FEWEST_SITES."""
    spread: float | None
    """Their standard deviation (denominator J - 1)."""


@dataclass(frozen=True)
class InformedThreshold:
    """The threshold, None where it is refused, and one sentence on what it promises or what is missing."""

    threshold: float | None
    sentence: str


def lesions_for_quantile(target: float) -> int:
    """Return how many malignant lesions a training site needs to count: 9 for a target of 0.90."""
    return int(np.ceil(target / (1 - target) - 1e-9))


def quantile_rank(n: int, target: float) -> int:
    """Return r such that the r-th smallest of n logits estimates the ``1 - target`` quantile; 0 for too few.

    ``r = floor((n + 1) (1 - target))``: on average a fraction ``r / (n + 1) <= 1 - target`` of malignant
    lesions lies below it, so that small sites err towards low thresholds.
    """
    return int(np.floor((n + 1) * (1 - target) + 1e-9))


def federation_evidence(
    counts_by_site: Mapping[str, Counts], target: float, confidence: float, *, without: str | None = None
) -> FederationEvidence:
    """Return the evidence of the training sites' calibration counts for any *other* site.

    ``without`` is the site the evidence goes to, where it is itself a training site: its lesions must not
    speak twice. Quantiles are lower bin edges, and counts merged under a minimum cell size lie lower still.
    """
    quantiles, left_out, used = [], 0, 0
    for site in sorted(counts_by_site):
        if site == without:
            continue
        histogram = counts_by_site[site].histograms("lesion")[1]
        n = int(histogram.sum())
        rank = quantile_rank(n, target)
        if rank == 0:
            left_out += 1
            continue
        at = int(np.searchsorted(np.cumsum(histogram), rank))
        quantiles.append(float(BIN_EDGES[at - 1] if at else BIN_CENTRES[0]))
        used += n
    return evidence_of(quantiles, target, confidence, left_out=left_out, lesions=used)


def evidence_of(
    quantiles: Sequence[float] | Floats,
    target: float,
    confidence: float,
    *,
    left_out: int = 0,
    lesions: int = 0,
) -> FederationEvidence:
    """Return the evidence of J sites' quantiles (raw logits), each estimated by ``quantile_rank``.

    Raises ValueError for a quantile that is not finite and for targets outside (0, 1).
    """
    positives_needed(target, confidence)
    values = np.asarray(quantiles, dtype=np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"informed threshold: the sites' quantiles must be finite, found {values.tolist()}")
    enough = len(values) >= FEWEST_SITES
    return FederationEvidence(
        target=target,
        confidence=confidence,
        sites=len(values),
        left_out=left_out,
        lesions=lesions,
        centre=float(values.mean()) if enough else None,
        spread=max(float(values.std(ddof=1)), SMALLEST_SPREAD) if enough else None,
    )


def informed_threshold(positive_lesion_scores: ArrayLike, evidence: FederationEvidence) -> InformedThreshold:
    """Return the threshold of a site with these malignant lesions' logits ``(n,)``, on a bin edge.

    Refused with fewer than FEWEST_SITES training sites, and where the site's lesions contradict the
    federation's evidence (see ``contradiction``). Raises ValueError for a logit that is not finite.
    """
    ordered = np.sort(np.asarray(positive_lesion_scores, dtype=np.float64))
    if not np.all(np.isfinite(ordered)):
        raise ValueError("informed threshold: the malignant lesions' logits must be finite")
    if evidence.centre is None or evidence.spread is None:
        return InformedThreshold(None, _too_few_sites(evidence))
    found = contradiction(ordered, evidence)
    if found is not None:
        return InformedThreshold(None, found)
    fallback = min(FALLBACK, evidence.confidence)
    own, _ = certified_threshold(ordered, evidence.target, fallback)
    combined = _highest(ordered, evidence, evidence.centre, evidence.spread)
    threshold = snap_down(combined if own is None else min(combined, own))
    alone = f"is left at {percent(fallback)} confidence" if own is not None else "is lost"
    goal = f"a sensitivity of {percent(evidence.target)} at {percent(evidence.confidence)} confidence"
    return InformedThreshold(
        threshold,
        f"Certified over new sites like the training sites: {goal}, from {lesions(len(ordered))} here and "
        f"{evidence.lesions} at {evidence.sites} training sites. It {alone} should "
        f"this site be unlike them.",
    )


def contradiction(ordered: Floats, evidence: FederationEvidence) -> str | None:
    """Return a sentence where the site's malignant logits, ascending, contradict the federation's evidence.

    They do where two intervals for the site's quantile do not meet: that of its own order statistics and the
    federation's prediction interval, both at ``confidence``. A site like the training sites is refused with
    at most ``2 (1 - confidence)``; simulated ones were with less than half of that.
    """
    if evidence.centre is None or evidence.spread is None:
        return None
    n, tail = len(ordered), (1 - evidence.confidence) / 2
    half = _scale(evidence.spread, evidence.sites) * float(t.isf(tail, evidence.sites - 1))
    low = misses_allowed(n, evidence.target, 1 - tail) if n else None
    high = int(binom.isf(tail, n, 1 - evidence.target)) if n else 0
    own_lowest = -np.inf if low is None else float(ordered[low])
    own_highest = float(ordered[high]) if high < n else np.inf
    if own_lowest <= evidence.centre + half and own_highest >= evidence.centre - half:
        return None
    side = "lower" if own_highest < evidence.centre - half else "higher"
    return (
        f"Refused: this site's {lesions(n)} score {side} than those of the {evidence.sites} training sites "
        f"let expect, so the federation's evidence is not about this site; "
        f"{positives_needed(evidence.target, evidence.confidence)} malignant lesions of its own are needed."
    )


def _highest(ordered: Floats, evidence: FederationEvidence, centre: float, spread: float) -> float:
    """Return the highest t whose combined test is significant.

    Between two neighbouring scores K is constant and the federation's part rises with t; so with L_k the t at
    which the sum is just significant for K = k, the answer is ``max_k min(L_k, x_(k+1))``.
    """
    levels = federation_levels(len(ordered), evidence.target, evidence.confidence)
    crossing = centre + _scale(spread, evidence.sites) * t.ppf(levels, evidence.sites - 1)
    return float(np.max(np.minimum(crossing, np.append(ordered, np.inf))))


@cache
def federation_levels(n: int, target: float, confidence: float) -> Floats:
    """Return ``(n + 1,)``: how small the federation's p-value at t must be where K = 0..n lie below t.

    At t = q the sum is ``Z + h(K)`` with Z standard normal and K binomial, whose critical value c solves
    ``sum_k P(K = k) Phi(c - h(k)) = 1 - confidence``: exact although K is discrete. h is ``sqrt(n / needed)``
    times the normal score of the mid-p-value.
    """
    if n == 0:
        return np.array([1 - confidence])
    k, delta = np.arange(n + 1), 1 - confidence
    mass = binom.pmf(k, n, 1 - target)
    weight = float(np.sqrt(n / positives_needed(target, confidence)))
    # Not to 1: a score of infinity has no place in a sum.
    scores = weight * ndtri(np.clip(binom.cdf(k, n, 1 - target) - mass / 2, 1e-300, 1 - 1e-15))
    bound = 40 * (1 + weight)
    critical = brentq(lambda c: float(mass @ ndtr(c - scores)) - delta, -bound, bound, xtol=1e-12)
    return np.asarray(ndtr(critical - scores))


def _scale(spread: float, sites: int) -> float:
    return float(spread * np.sqrt(1 + 1 / sites))


def _too_few_sites(evidence: FederationEvidence) -> str:
    without = f"; {evidence.left_out} more show too few malignant lesions" if evidence.left_out else ""
    return (
        f"Cannot be certified: {evidence.sites} training sites with at least "
        f"{lesions_for_quantile(evidence.target)} malignant calibration lesions now{without}, "
        f"{FEWEST_SITES} needed, {FEWEST_SITES - evidence.sites} more."
    )
