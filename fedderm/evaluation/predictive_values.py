"""Thresholds with a certified negative or positive predictive value, or a certified rate of referral.

Below a threshold t lie m calibration lesions, K of them malignant. Given m and t, K is binomial with the
share of malignant lesions below t, so ``P(Binom(m, 1 - NPV) <= K)`` is the p-value (Clopper and Pearson,
Biometrika 26 (1934)) of "the NPV at t is too low". Thresholds at growing m are tested in a fixed order until
the first that is not significant, each at the full level: fixed-sequence testing, as in Angelopoulos et al.,
"Learn then Test", Annals of Applied Statistics 19 (2025). The order depends on the number of lesions alone.
Valid where malignancy does not fall as the score rises, and at the calibration lesions' prevalence. The
positive predictive value is the same from the other end.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from fedderm.evaluation.counts import BINS, bin_of, lower_edge, snap_down
from fedderm.evaluation.scores import Floats, Scores
from fedderm.evaluation.thresholds import misses_allowed, percent, positives_needed

FIRST_NPV: Final = 1 / 4
"""The first threshold tested for NPV has this share of all lesions below it (a choice: fewer need luck, more
ask for much)."""

FIRST_PPV: Final = 1 / 10
"""The first threshold tested for PPV has this share at or above it."""

STEP: Final = 1 / 40
"""Share of lesions between two thresholds tested: a finer sequence stops earlier, by accident."""


def npv_threshold(calibration: Scores, target_npv: float, confidence: float) -> tuple[float | None, str]:
    """Return the highest threshold whose NPV is certified, on a bin edge, and a sentence; None without one.

    ``calibration`` holds images or lesions; lesions are counted. Raises ValueError for a target outside
    (0, 1).
    """
    scores, malignant = _ascending(calibration)
    n, needed = len(scores), positives_needed(target_npv, confidence)
    goal = f"a negative predictive value of {percent(target_npv)} at {percent(confidence)} confidence"
    edges = np.array([snap_down(value) for value in scores[_sizes(n, needed, FIRST_NPV)]])
    # Moved to an edge, a threshold may have too few lesions below it: passed over, whatever their labels.
    edges = edges[np.searchsorted(scores, edges) >= needed]
    if len(edges) == 0:
        return None, _too_few(n, needed, goal)
    below = np.searchsorted(scores, edges)
    missed = np.append(0, np.cumsum(malignant))[below]
    last = _last_certified(missed, below, 1 - target_npv, confidence)
    if last is None:
        return None, (
            f"Cannot be certified: {goal}; {missed[0]} of the {below[0]} lesions below the lowest threshold "
            f"tested are malignant."
        )
    return float(edges[last]), (
        f"Certified: {goal}, from {below[last]} calibration lesions below the threshold, {missed[last]} of "
        f"them malignant."
    )


def ppv_threshold(calibration: Scores, target_ppv: float, confidence: float) -> tuple[float | None, str]:
    """Return the lowest threshold whose PPV is certified, on a bin edge, and a sentence; None without one."""
    scores, malignant = _ascending(calibration)
    n, needed = len(scores), positives_needed(target_ppv, confidence)
    goal = f"a positive predictive value of {percent(target_ppv)} at {percent(confidence)} confidence"
    edges = np.array([snap_up(value) for value in scores[n - _sizes(n, needed, FIRST_PPV)]])
    edges = edges[n - np.searchsorted(scores, edges) >= needed]
    if len(edges) == 0:
        return None, _too_few(n, needed, goal)
    above = n - np.searchsorted(scores, edges)
    benign = np.append(0, np.cumsum(~malignant[::-1]))[above]
    last = _last_certified(benign, above, 1 - target_ppv, confidence)
    if last is None:
        return None, (
            f"Cannot be certified: {goal}; {benign[0]} of the {above[0]} lesions at or above the highest "
            f"threshold tested are benign."
        )
    return float(edges[last]), (
        f"Certified: {goal}, from {above[last]} calibration lesions at or above the threshold, "
        f"{benign[last]} of them benign."
    )


def referral_threshold(
    calibration: Scores, max_referral: float, confidence: float
) -> tuple[float | None, str]:
    """Return the lowest threshold that refers at most ``max_referral`` of lesions, and a sentence.

    An order statistic of all calibration lesions: no label is used. On the bin edge above it.
    """
    scores, _ = _ascending(calibration)
    n, needed = len(scores), positives_needed(1 - max_referral, confidence)
    goal = f"at most {percent(max_referral)} of lesions referred, at {percent(confidence)} confidence"
    allowed = misses_allowed(n, 1 - max_referral, confidence)
    if allowed is None:
        return None, _too_few(n, needed, goal)
    # With the (allowed + 1)-th highest score kept out, at most `allowed` lie at or above the edge.
    edge = _edge_above(float(scores[n - 1 - allowed]))
    if edge == float("inf"):
        return None, f"Cannot be certified: {goal}; too many lesions score above the last bin."
    return edge, f"Certified: {goal}, from {n} calibration lesions, of which {allowed} may be referred."


def snap_up(threshold: float) -> float:
    """Return the lowest bin edge not below ``threshold``; infinity beyond the last."""
    return threshold if snap_down(threshold) == threshold else _edge_above(threshold)


def _edge_above(value: float) -> float:
    at = int(bin_of(value))
    return lower_edge(at + 1) if at < BINS - 1 else float("inf")


def _ascending(calibration: Scores) -> tuple[Floats, NDArray[np.bool_]]:
    lesions = calibration.per_lesion()
    order = np.argsort(lesions.triage, kind="stable")
    return lesions.triage[order], lesions.positive[order]


def _sizes(n: int, needed: int, first: float) -> NDArray[np.int64]:
    """Return how many of n lesions lie beyond each threshold tested: ascending; empty for too few."""
    start, step = max(needed, int(np.ceil(first * n))), max(1, int(STEP * n))
    return np.arange(start, n, step, dtype=np.int64)


def _last_certified(
    errors: NDArray[np.int64], sizes: NDArray[np.intp], allowed: float, confidence: float
) -> int | None:
    """Return the index of the last threshold before the first whose error rate may exceed ``allowed``."""
    failed = np.flatnonzero(binom.cdf(errors, sizes, allowed) > 1 - confidence)
    passed = int(failed[0]) if len(failed) else len(sizes)
    return passed - 1 if passed else None


def _too_few(n: int, needed: int, goal: str) -> str:
    return f"Cannot be certified: {n} calibration lesions now, more than {needed} needed for {goal}."
