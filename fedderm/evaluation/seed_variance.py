"""A mean over seeds with the variance of seeds and of lesions: the analysis of many readers and many cases.

Models that differ by their seed of training judge the same lesions, as readers of a reading study judge the
same cases. Obuchowski and Rockette, Communications in Statistics - Simulation and Computation 24 (1995)
285-308, give the variance of a mean over readers when readers and cases are both samples; Hillis, Statistics
in Medicine 26 (2007) 596-619, its degrees of freedom. Readers are seeds here, cases are lesions.

A bootstrap of lesions of one seed leaves out the seeds, a t test over seeds leaves out the lesions; summing
both variances, or drawing both (Owen, Annals of Applied Statistics 1 (2007) 386-411), counts what a seed
makes of single lesions twice. ``benchmarks/comparison.py`` measures the error rates of all of them.
"""

from dataclasses import dataclass
from math import inf, sqrt
from typing import Final

import numpy as np
from scipy.stats import t as student

from fedderm.evaluation.intervals import LEVEL
from fedderm.evaluation.scores import Floats

_NOTHING: Final = 1e-12
"""A standard error below this is none: all models decide alike."""


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds, its standard error over new seeds and new lesions, and that error's freedom."""

    value: float
    seeds: int
    error: float | None
    """None where nothing varies, or where there are no draws of lesions."""
    degrees: float

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % t interval, or None without an error."""
        if self.error is None:
            return None
        half = float(student.ppf((1 + LEVEL) / 2, self.degrees)) * self.error
        return self.value - half, self.value + half

    def logit_interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of a value between 0 and 1, made on the logit scale to stay there.

        None without an error, or at 0 or 1.
        """
        if self.error is None or not 0 < self.value < 1:
            return None
        logit = np.log(self.value / (1 - self.value))
        half = float(student.ppf((1 + LEVEL) / 2, self.degrees)) * self.error
        ends = logit + np.array([-half, half]) / (self.value * (1 - self.value))
        lower, upper = (1 / (1 + np.exp(-ends))).tolist()
        return lower, upper

    def p_value(self) -> float | None:
        """Return the two-sided p value of the value being 0; None with one seed, or without an error.

        One seed tests two models, not two ways of training them.
        """
        if self.error is None or self.seeds < 2:
            return None
        return float(2 * student.sf(abs(self.value) / self.error, self.degrees))


def mean_over_seeds(values: Floats, replicates: Floats | None, fewest: int) -> SeedMean:
    """Return the mean of ``(S,)`` values of S seeds, with its error from ``(S, B)`` replicates.

    ``replicates`` are the same values under B shared draws of lesions (None: no error), ``fewest`` the
    lesions of the rarer class drawn from. With m the bootstrap variance of the mean and v the mean of the S
    bootstrap variances, a seed makes ``g = (v - m) S / (S - 1)`` of single lesions, and ``c = m - g / S`` is
    common to all seeds. The seeds' sample variance s^2 holds g already, so the squared error is
    ``c + max(s^2, g) / S``: never less than that of the lesions alone. Degrees of freedom are Satterthwaite's
    (Hillis' with many lesions): S - 1 for the seeds' part, ``fewest`` - 1 for the lesions'.

    With one seed the error is that of the lesions alone. Raises ValueError for no seed at all.
    """
    seeds = len(values)
    if seeds == 0:
        raise ValueError("mean over seeds: expected one seed or more, found none")
    value = float(values.mean())
    if replicates is None:
        return SeedMean(value, seeds, None, inf)
    of_mean = float(replicates.mean(axis=0).var(ddof=1))
    if seeds == 1:
        return _with_error(value, 1, (of_mean, 0.0), fewest)
    of_one = float(replicates.var(axis=1, ddof=1).mean())
    single = max(0.0, (of_one - of_mean) * seeds / (seeds - 1))
    between = max(float(values.var(ddof=1)), single)
    return _with_error(value, seeds, (max(0.0, of_mean - single / seeds), between / seeds), fewest)


def _with_error(value: float, seeds: int, parts: tuple[float, float], fewest: int) -> SeedMean:
    """``parts`` of the squared error: the lesions', the seeds'."""
    total = sum(parts)
    if not np.isfinite(total) or sqrt(total) < _NOTHING:
        return SeedMean(value, seeds, None, inf)
    spread = sum(
        part**2 / freedom
        for part, freedom in zip(parts, (fewest - 1, seeds - 1), strict=True)
        if part > 0 and freedom > 0
    )
    return SeedMean(value, seeds, sqrt(total), total**2 / spread if spread > 0 else inf)


def pseudo_values(values: Floats) -> Floats:
    """Return jackknife pseudo-values ``(S, ...)`` of the smallest of K means over S seeds.

    ``values`` is ``(K, S, ...)``. Their spread over seeds is that of the smallest mean; with one mean (K = 1)
    they are the values themselves. Tukey, Annals of Mathematical Statistics 29 (1958) 614.
    """
    seeds = values.shape[1]
    if seeds == 1:
        return np.asarray(values.min(axis=0))
    without = (values.sum(axis=1, keepdims=True) - values) / (seeds - 1)
    return np.asarray(seeds * values.mean(axis=1).min(axis=0) - (seeds - 1) * without.min(axis=0))
