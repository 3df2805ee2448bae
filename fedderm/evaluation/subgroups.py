"""How a model does in subgroups of a site's lesions: age, sex, anatomical site, skin type, diagnosis.

Rates carry Wilson's interval, AUCs a percentile interval of the lesion bootstrap; both are of one level and
not adjusted. The largest gap is picked among all pairs of K levels, so its interval is taken from a family
that holds for all pairs at once: Newcombe's hybrid interval of a difference (Statistics in Medicine 17
(1998), method 10; for AUCs with bootstrap standard errors) with the studentised range's critical value
``q(0.95; K) / sqrt 2`` (Tukey-Kramer) in the place of 1.96. Levels are disjoint sets of lesions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
from scipy.stats import norm, studentized_range

from fedderm.evaluation.documents import Estimate, OperatingPoint, Subgroup, SubgroupGap
from fedderm.evaluation.intervals import LEVEL, lesion_weights
from fedderm.evaluation.metrics import auc
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.scores import Floats, Scores
from fedderm.evaluation.subgroup_levels import HIDDEN, NOT_RECORDED, Names, lesion_levels, shown_levels

GapMetric = Literal["auc", "sensitivity", "specificity"]

FEWEST: Final = 10
"""Lesions of a class that a rate needs, and of either class that an AUC needs (a choice)."""


def subgroups(
    scores: Scores,
    attributes: Mapping[str, Names],
    point: OperatingPoint,
    *,
    resamples: int,
    rng: np.random.Generator,
    min_cell: int = 0,
) -> tuple[list[Subgroup], list[SubgroupGap]]:
    """Return every level of every attribute with n and performance by lesion, and each metric's largest gap.

    ``attributes`` has ``(N,)`` levels by attribute, one for each image of ``scores``, "" where not recorded.
    A lesion has the level that its images agree on, blanks aside; where they disagree it counts as not
    recorded. Lesions without a level are a row of their own and take no part in gaps. A rate needs FEWEST
    lesions of its class. With ``min_cell``, levels are joined (``joined_levels``) until no non-zero count
    below it can be found, by subtraction from the site's totals either; an attribute that then has one row
    only is left out. ``resamples`` 0 leaves AUCs and their gaps without intervals. Raises ValueError for
    levels of another length than the scores.
    """
    lesions = scores.per_lesion()
    rows: list[Subgroup] = []
    gaps: list[SubgroupGap] = []
    for attribute, given in attributes.items():
        levels = lesion_levels(scores, attribute, given)
        found = [
            _Level.of(name, lesions.take(members), point, resamples, rng)
            for name, members in shown_levels(lesions, levels, min_cell)
        ]
        rows += [one.document(attribute) for one in found]
        gaps += _gaps(attribute, [one for one in found if one.name not in (NOT_RECORDED, HIDDEN)])
    return rows, gaps


@dataclass(frozen=True, eq=False)
class _Level:
    """One level's lesions, and what the largest gap's interval takes from them."""

    name: str
    n: int
    positives: int
    estimates: dict[GapMetric, Estimate]
    hits: dict[GapMetric, tuple[int, int]]
    """Of each rate: how many of how many."""
    spread: float
    """Bootstrap standard error of the AUC; 0 where there is none."""

    @classmethod
    def of(
        cls, name: str, lesions: Scores, point: OperatingPoint, resamples: int, rng: np.random.Generator
    ) -> "_Level":
        """Return the level of lesion rows; ``resamples`` are behind its AUC's interval."""
        called, positive = lesions.triage >= point.threshold, lesions.positive
        p = int(positive.sum())
        n = len(lesions) - p
        hits: dict[GapMetric, tuple[int, int]] = {
            "sensitivity": (int((called & positive).sum()), p),
            "specificity": (int((~called & ~positive).sum()), n),
        }
        estimates = {metric: _rate(*found) for metric, found in hits.items()}
        estimates["auc"], spread = _auc(lesions, resamples if min(p, n) >= FEWEST else None, rng)
        return cls(name, len(lesions), p, estimates, hits, spread)

    def document(self, attribute: str) -> Subgroup:
        """Return the level as a row of the site's document."""
        return Subgroup(
            attribute=attribute, level=self.name, n=self.n, positives=self.positives, **self.estimates
        )

    def reach(self, metric: GapMetric, z: float) -> tuple[float, float] | None:
        """Return how far below and above its value the metric's interval at ``z`` reaches, if it has one."""
        value = self.estimates[metric].value
        if value is None:
            return None
        if metric == "auc":
            return (z * self.spread, z * self.spread) if self.spread > 0 else None
        lower, upper = wilson(*self.hits[metric], level=2 * float(norm.cdf(z)) - 1)
        return value - lower, upper - value


def _rate(hits: int, n: int) -> Estimate:
    if n < FEWEST:
        return Estimate(value=None)
    lower, upper = wilson(hits, n, LEVEL)
    return Estimate(value=hits / n, lower=lower, upper=upper)


def _auc(lesions: Scores, resamples: int | None, rng: np.random.Generator) -> tuple[Estimate, float]:
    if resamples is None:
        return Estimate(value=None), 0.0
    lesions = lesions.take(np.argsort(lesions.triage, kind="stable"))
    positive = lesions.positive
    sides = lesions.triage[positive], lesions.triage[~positive]
    value = float(auc(*sides, np.ones(len(sides[0])), np.ones(len(sides[1]))))
    # Two strata: a rare malignant diagnosis of a subgroup would otherwise be drawn as itself every time.
    drawn = [
        auc(*sides, weights[:, positive], weights[:, ~positive])
        for weights in lesion_weights(positive.astype(np.int64), resamples, rng)
    ]
    replicates = np.concatenate([np.empty(0), *drawn])
    if len(replicates) == 0 or np.ptp(replicates) < 1e-12:
        return Estimate(value=value), 0.0
    lower, upper = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Estimate(value=value, lower=lower, upper=upper), float(replicates.std(ddof=1))


def _gaps(attribute: str, levels: list[_Level]) -> list[SubgroupGap]:
    metrics: tuple[GapMetric, ...] = ("auc", "sensitivity", "specificity")
    return [gap for metric in metrics if (gap := _largest_gap(attribute, metric, levels)) is not None]


def _largest_gap(attribute: str, metric: GapMetric, levels: list[_Level]) -> SubgroupGap | None:
    known = [(value, one) for one in levels if (value := one.estimates[metric].value) is not None]
    if len(known) < 2:
        return None
    values: Floats = np.array([value for value, _ in known])
    high, low = known[int(values.argmax())][1], known[int(values.argmin())][1]
    if high is low:
        # All alike: argmax and argmin both name the first.
        low = known[1][1]
    difference = float(values.max() - values.min())
    z = simultaneous_z(len(known))
    above, below = high.reach(metric, z), low.reach(metric, z)
    estimate = Estimate(value=difference)
    if above is not None and below is not None:
        estimate = Estimate(
            value=difference,
            lower=difference - float(np.hypot(above[0], below[1])),
            upper=min(1.0, difference + float(np.hypot(above[1], below[0]))),
        )
    return SubgroupGap(
        attribute=attribute, metric=metric, highest=high.name, lowest=low.name, difference=estimate
    )


@cache
def simultaneous_z(levels: int) -> float:
    """Return the critical value for all differences between so many levels at once; 1.96 for two."""
    return float(studentized_range.ppf(LEVEL, levels, np.inf)) / 2**0.5
