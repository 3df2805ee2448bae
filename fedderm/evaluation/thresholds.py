"""Triage thresholds whose sensitivity is guaranteed, and how many lesions that takes.

With n exchangeable malignant lesions let k be the largest number with ``P(Binom(n, 1 - target) <= k) <= 1 -
confidence``. The (k+1)-th smallest of their scores has at most a fraction ``1 - target`` of malignant lesions
below it with at least the stated confidence (a one-sided tolerance limit: Wilks, Ann. Math. Stat. 12 (1941)).
Lesions, never images, are counted.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom

from fedderm.evaluation.counts import EVERYTHING, Counts, lower_edge
from fedderm.evaluation.documents import Certificate


def positives_needed(target: float, confidence: float) -> int:
    """Return the fewest malignant lesions with which a sensitivity can be certified: 29 for 0.90 at 95 %."""
    _check(target, confidence)
    needed = math.ceil(math.log(1 - confidence) / math.log(target))
    # Logarithms round: step to the exact answer.
    while needed > 1 and target ** (needed - 1) <= 1 - confidence:
        needed -= 1
    while target**needed > 1 - confidence:
        needed += 1
    return needed


def certifiable_sensitivity(n: int, confidence: float) -> float:
    """Return the highest sensitivity n malignant lesions certify: ``(1 - confidence) ** (1 / n)``."""
    return float((1 - confidence) ** (1 / n)) if n > 0 else 0.0


def misses_allowed(n: int, target: float, confidence: float) -> int | None:
    """Return k, how many of n calibration lesions may lie below the threshold; None where n is too small."""
    _check(target, confidence)
    if n < positives_needed(target, confidence):
        return None
    k = int(binom.ppf(1 - confidence, n, 1 - target))
    # ppf gives the smallest k whose tail reaches 1 - confidence; the largest that does not exceed it may be
    # one less.
    while k > 0 and binom.cdf(k, n, 1 - target) > 1 - confidence:
        k -= 1
    return k


def certified_threshold(
    positive_lesion_scores: ArrayLike, target: float, confidence: float
) -> tuple[float | None, Certificate]:
    """Return the highest threshold that certifies ``target`` with ``confidence``, and its certificate.

    None where there are too few malignant lesions; the certificate's sentence says how many more are needed.
    """
    ordered = np.sort(np.asarray(positive_lesion_scores, dtype=np.float64))
    certificate = certificate_of(len(ordered), target, confidence)
    k = misses_allowed(len(ordered), target, confidence)
    return (None if k is None else float(ordered[k])), certificate


def certificate_of(n: int, target: float, confidence: float) -> Certificate:
    """Return what n malignant calibration lesions certify."""
    needed, k = positives_needed(target, confidence), misses_allowed(n, target, confidence)
    goal = f"a sensitivity of {percent(target)} at {percent(confidence)} confidence"
    if k is None:
        best = (
            f"; {lesions(n)} can certify {100 * certifiable_sensitivity(n, confidence):.0f} %"
            if n > 1
            else ""
        )
        sentence = (
            f"Cannot be certified: {lesions(n)} now, {needed} needed for {goal}, {needed - n} more{best}."
        )
    else:
        sentence = f"Certified: {goal}, from {lesions(n)}, of which {k} may lie below the threshold."
    return Certificate(
        target_sensitivity=target,
        confidence=confidence,
        positives=n,
        needed=needed,
        certified=k is not None,
        sentence=sentence,
    )


def federation_threshold(counts: Counts, target: float, confidence: float) -> tuple[float, Certificate]:
    """Return the federation's threshold from summed calibration counts, on a bin edge, and its certificate.

    The certified order statistic, snapped *down* to its bin's edge, so that the guarantee is kept. With too
    few malignant lesions, the empirical quantile (at least ``target`` of the calibration lesions found),
    which the sentence says is not certified; without any, logit 0.
    """
    histogram = counts.histograms("lesion")[1]
    n = int(histogram.sum())
    certificate = certificate_of(n, target, confidence)
    if n == 0:
        added = "The threshold is logit 0, for want of malignant lesions."
        return 0.0, certificate.model_copy(update={"sentence": f"{certificate.sentence} {added}"})
    k = misses_allowed(n, target, confidence)
    if k is None:
        k = math.floor(n * (1 - target) + 1e-9)
        added = f"The threshold is the empirical quantile, with {k} of {n} below it."
        certificate = certificate.model_copy(update={"sentence": f"{certificate.sentence} {added}"})
    return lower_edge(int(np.searchsorted(np.cumsum(histogram), k, side="right"))), certificate


def describe(threshold: float) -> str:
    """Return a threshold for a sentence."""
    return "none: everything is called malignant" if threshold == EVERYTHING else f"logit {threshold:.2f}"


def percent(fraction: float) -> str:
    """Return a fraction for a sentence."""
    return f"{100 * fraction:.4g} %"


def lesions(n: int) -> str:
    """Return a number of malignant lesions for a sentence."""
    return f"{n} malignant lesion" + ("" if n == 1 else "s")


def _check(target: float, confidence: float) -> None:
    for name, value in (("target sensitivity", target), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"thresholds: the {name} must lie between 0 and 1, found {value:g}")
