"""Arms of a comparison at single sites, over the mean of sites and at the worst one: means and differences.

Every value is a mean over seeds, every interval carries seeds and lesions (``seed_variance``); a difference
pairs the seeds that both arms have, under the same draws of the same lesions. Holm's method makes the p
values of a metric one family: all arms at all single sites; means and worst sites are a family of their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedderm.evaluation.comparison import FEWEST, holm
from fedderm.evaluation.documents import Estimate
from fedderm.evaluation.lesion_draws import SiteDraws
from fedderm.evaluation.proportions import auc_interval, wilson
from fedderm.evaluation.scores import Floats
from fedderm.evaluation.seed_variance import SeedMean, mean_over_seeds, pseudo_values

MEAN: Final = "(mean)"
WORST: Final = "(worst)"
"""Places that are not one site: the mean of a role's sites, and the lowest of their means over seeds."""


@dataclass(frozen=True)
class Place:
    """Where arms are compared: one site, or several at once."""

    name: str
    role: str
    draws: tuple[SiteDraws, ...]

    @property
    def lesions(self) -> int:
        """Return the lesions of all its sites."""
        return sum(one.lesions for one in self.draws)

    @property
    def malignant(self) -> int:
        """Return the malignant lesions of all its sites."""
        return sum(one.malignant for one in self.draws)

    def seeds_of(self, metric: str, arm: str) -> NDArray[np.bool_]:
        """Return ``(S,)`` whether the arm has a value at every site."""
        values = np.stack([one.of(metric, arm)[0] for one in self.draws])
        return np.asarray(np.isfinite(values).all(axis=0))

    def mean(self, metric: str, arm: str, seeds: NDArray[np.bool_]) -> tuple[float, Floats, Floats | None]:
        """Return an arm's mean over ``seeds``, and what each seed gives to it: ``(S',)`` and ``(S', B)``.

        The latter None where a class has fewer lesions than FEWEST, or a draw leaves the metric undefined: a
        PPV of which no lesion is called malignant.
        """
        values = np.stack([one.of(metric, arm)[0][seeds] for one in self.draws])
        enough = self._lesions_of(metric) >= FEWEST
        drawn = np.stack([one.of(metric, arm)[1][seeds] for one in self.draws]) if enough else None
        if drawn is not None and not np.isfinite(drawn).all():
            drawn = None
        if self.name == WORST:
            lowest = float(values.mean(axis=1).min())
            return lowest, pseudo_values(values), None if drawn is None else pseudo_values(drawn)
        value = values.mean(axis=0)
        return float(value.mean()), value, None if drawn is None else drawn.mean(axis=0)

    def error_of(self, metric: str, values: Floats, drawn: Floats | None) -> SeedMean:
        """Return the mean of what each seed gives, with its error."""
        return mean_over_seeds(values, drawn, self._lesions_of(metric))

    def _lesions_of(self, metric: str) -> int:
        """The lesions, at the site with fewest, of the rarer class that the metric looks at."""
        if metric == "sensitivity":
            return min(one.malignant for one in self.draws)
        if metric == "specificity":
            return min(one.lesions - one.malignant for one in self.draws)
        return min(one.fewest for one in self.draws)


@dataclass(frozen=True)
class ArmMean:
    """An arm's mean over seeds of a metric at a place."""

    arm: str
    place: Place
    metric: str
    estimate: Estimate
    seeds: int


@dataclass(frozen=True)
class ArmDifference:
    """An arm's mean over seeds less its reference's, over the seeds that both have."""

    arm: str
    reference: str
    place: Place
    metric: str
    estimate: Estimate
    seeds: int
    p: float | None
    """Two-sided; None without an interval, and with one seed, which says nothing about arms."""
    p_holm: float | None = None


def places_of(draws: Mapping[str, Sequence[SiteDraws]]) -> list[Place]:
    """Return the places of ``draws`` (by role): its sites, then the mean and the worst of two or more.

    Sites with fewer lesions of a class than FEWEST are places, but count in neither mean nor worst.
    """
    found = [Place(one.site, role, (one,)) for role, sites in draws.items() for one in sites]
    for role, sites in draws.items():
        counted = tuple(one for one in sites if one.fewest >= FEWEST)
        if len(counted) > 1:
            found += [Place(MEAN, role, counted), Place(WORST, role, counted)]
    return found


def arm_means(places: Iterable[Place], metrics: Sequence[str], arms: Sequence[str]) -> list[ArmMean]:
    """Return every arm's mean of every metric at every place; an undefined one has no value."""
    return [_mean(place, metric, arm) for place in places for metric in metrics for arm in arms]


def arm_differences(
    places: Iterable[Place], metrics: Sequence[str], references: Mapping[str, str]
) -> list[ArmDifference]:
    """Return the differences of every arm to its reference (``references``: arm to reference), with Holm's p.

    Pairs without a seed in common are left out.
    """
    return pair_differences(places, metrics, list(references.items()))


def pair_differences(
    places: Iterable[Place], metrics: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> list[ArmDifference]:
    """Return the differences of the first arm of each pair to the second, with Holm's p over all pairs."""
    found = [
        one
        for place in places
        for metric in metrics
        for arm, reference in pairs
        if (one := _difference(place, metric, arm, reference)) is not None
    ]
    return _with_holm(found)


def _mean(place: Place, metric: str, arm: str) -> ArmMean:
    seeds = place.seeds_of(metric, arm)
    if not seeds.any():
        return ArmMean(arm, place, metric, Estimate(value=None), 0)
    value, values, drawn = place.mean(metric, arm, seeds)
    found = replace(place.error_of(metric, values, drawn), value=value)
    ends = found.logit_interval()
    if ends is None and drawn is not None and len(place.draws) == 1:
        ends = _without_variance(metric, value, place.draws[0])
    return ArmMean(arm, place, metric, _estimate(value, ends), int(seeds.sum()))


def _without_variance(metric: str, value: float, site: SiteDraws) -> tuple[float, float] | None:
    """An interval by the number of lesions alone, where all models decide alike on all lesions."""
    lesions = {"sensitivity": site.malignant, "specificity": site.lesions - site.malignant}.get(metric)
    if lesions is not None:
        return wilson(round(value * lesions), lesions)
    if metric == "auc" and value in (0.0, 1.0):
        return auc_interval(value, site.malignant, site.lesions - site.malignant)
    return None


def _difference(place: Place, metric: str, arm: str, reference: str) -> ArmDifference | None:
    seeds = place.seeds_of(metric, arm) & place.seeds_of(metric, reference)
    if not seeds.any():
        return None
    first, first_values, first_drawn = place.mean(metric, reference, seeds)
    second, values, drawn = place.mean(metric, arm, seeds)
    apart = None if drawn is None or first_drawn is None else drawn - first_drawn
    found = replace(place.error_of(metric, values - first_values, apart), value=second - first)
    estimate = _estimate(found.value, found.interval(), low=-1.0)
    return ArmDifference(arm, reference, place, metric, estimate, int(seeds.sum()), found.p_value())


def _estimate(value: float, ends: tuple[float, float] | None, low: float = 0.0) -> Estimate:
    if ends is None:
        return Estimate(value=value)
    return Estimate(value=value, lower=max(low, ends[0]), upper=min(1.0, ends[1]))


def _with_holm(found: list[ArmDifference]) -> list[ArmDifference]:
    """Return the differences with p values adjusted within their family."""
    families: dict[tuple[str, bool], dict[str, float | None]] = {}
    for index, one in enumerate(found):
        families.setdefault((one.metric, len(one.place.draws) > 1), {})[str(index)] = one.p
    adjusted = {name: p for family in families.values() for name, p in holm(family).items()}
    return [replace(one, p_holm=adjusted[str(index)]) for index, one in enumerate(found)]
