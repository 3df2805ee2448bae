"""Intervals of a proportion, and of the AUC, a proportion of pairs."""

import math

from scipy.optimize import brentq
from scipy.stats import beta, norm


def wilson(hits: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (JASA 1927) of ``hits / n``; (0, 1) for n = 0."""
    _check(hits, n)
    if n == 0:
        return 0.0, 1.0
    z = float(norm.ppf((1 + level) / 2))
    p, shrink = hits / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / shrink
    # The ends are exact where all or none were hit; rounding must not leave them at 0.999...
    return (0.0 if hits == 0 else max(0.0, centre - half)), (1.0 if hits == n else min(1.0, centre + half))


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval (Biometrika 1934) of ``hits / n``, which never covers less than ``level``.

    (0, 1) for n = 0.
    """
    _check(hits, n)
    tail = (1 - level) / 2
    lower = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    return lower, (1.0 if hits == n else float(beta.isf(tail, hits + 1, n - hits)))


def auc_interval(auc: float, positives: int, negatives: int, level: float = 0.95) -> tuple[float, float]:
    """Return Newcombe's method 5 interval of an AUC (Statistics in Medicine 25 (2006) 559-573).

    The AUCs whose Hanley-McNeil standard error, both class sizes in it replaced by their mean, reaches
    ``auc``. Unlike a bootstrap or DeLong's interval it works at 0 and 1 and with few of a class. Raises
    ValueError for an empty class or an AUC outside [0, 1].
    """
    if min(positives, negatives) < 1 or not 0 <= auc <= 1:
        raise ValueError(
            "auc interval: expected an AUC from 0 to 1 and one or more of either class, "
            f"found {auc:g} of {positives} and {negatives}"
        )
    z, mean = float(norm.ppf((1 + level) / 2)), (positives + negatives) / 2 - 1

    def excess(a: float) -> float:
        shape = 1 + mean * ((1 - a) / (2 - a) + a / (1 + a))
        return abs(a - auc) - z * math.sqrt(max(0.0, a * (1 - a)) * shape / (positives * negatives))

    # The ends 0 and 1 are roots, too, of an AUC of 0 or 1: stay beside them.
    lower = 0.0 if auc == 0 else float(brentq(excess, 0.0 if auc < 1 else 1e-12, min(auc, 1 - 1e-12)))
    upper = 1.0 if auc == 1 else float(brentq(excess, max(auc, 1e-12), 1.0 if auc > 0 else 1 - 1e-12))
    return lower, upper


def _check(hits: float, n: float) -> None:
    if not 0 <= hits <= n:
        raise ValueError(f"a proportion needs 0 <= hits <= n, found {hits:g} of {n:g}")
