"""How a cost grows with the number of sites: least squares of a line and of a parabola, with residuals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Fit:
    """``seconds = coefficients[0] + coefficients[1] * n + ...`` and what it leaves unexplained."""

    coefficients: tuple[float, ...]
    residuals: tuple[float, ...]
    """Measured minus fitted, in seconds, in the order of the points."""

    def at(self, n: float) -> float:
        """Return the fitted seconds at ``n`` sites."""
        return float(sum(one * n**power for power, one in enumerate(self.coefficients)))

    def __str__(self) -> str:
        """Return the formula."""
        terms = ["", " n", " n^2"]
        return " + ".join(
            f"{one:.3g}{term}" for one, term in zip(self.coefficients, terms, strict=False)
        ).replace("+ -", "- ")


def fit(n: Sequence[float], seconds: Sequence[float], degree: int) -> Fit:
    """Return the least-squares polynomial of ``degree`` 1 or 2; raises ValueError for too few points."""
    if len(n) != len(seconds) or len(set(n)) <= degree:
        raise ValueError(f"a fit of degree {degree} needs more than {degree} different numbers of sites")
    x, y = np.asarray(n, float), np.asarray(seconds, float)
    powers = x[:, None] ** np.arange(degree + 1)
    scale = powers.max(axis=0)  # of unlike columns, such as 1 and 65,536
    solved: npt.NDArray[np.float64] = np.linalg.lstsq(powers / scale, y, rcond=None)[0] / scale
    return Fit(tuple(map(float, solved)), tuple(map(float, y - powers @ solved)))


def quadratic_share(n: Sequence[float], seconds: Sequence[float]) -> float:
    """Return which part of the cost at the most sites is quadratic; 0 where the parabola bends down."""
    most = max(n)
    parabola = fit(n, seconds, 2)
    return max(0.0, parabola.coefficients[2] * most**2 / parabola.at(most))


def explained(n: Sequence[float], seconds: Sequence[float]) -> float:
    """Return R^2 of the line: 1 where every point lies on it."""
    left = np.square(fit(n, seconds, 1).residuals).sum()
    return float(1 - left / np.square(np.asarray(seconds) - np.mean(seconds)).sum())
