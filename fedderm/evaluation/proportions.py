"""Intervals of a proportion."""

from scipy.stats import norm


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


def _check(hits: float, n: float) -> None:
    if not 0 <= hits <= n:
        raise ValueError(f"a proportion needs 0 <= hits <= n, found {hits:g} of {n:g}")
