"""The statistics of a comparison: what its cells' scores say of its arms, site by site."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from fedderm.comparison.choice import Tried, choices_of
from fedderm.comparison.diagnoses import Diagnoses, diagnoses_of
from fedderm.comparison.effort import ArmCost, Curve, costs_of, curves_of
from fedderm.comparison.outcomes import Cell, Comparison
from fedderm.comparison.scores import PERSONAL
from fedderm.comparison.sweep import Sweep, sweep_of
from fedderm.evaluation.arm_ranks import ArmRank, arm_ranks, share_of_worst
from fedderm.evaluation.arms import (
    WORST,
    ArmDifference,
    ArmMean,
    Place,
    arm_differences,
    arm_means,
    places_of,
)
from fedderm.evaluation.lesion_draws import COMPARED, Judged, SiteDraws, draw_site

REFERENCE_ONCE_MORE: Final = "(global) "
"""Before the reference's label where its global model stands among personal ones."""

Draws = Mapping[str, Sequence[SiteDraws]]
"""By role."""


@dataclass(frozen=True)
class Statistics:
    """Means and differences of models of one kind, global or personal."""

    reference: str
    """What the others are compared with, as it stands among the arms."""
    places: list[Place]
    means: list[ArmMean]
    differences: list[ArmDifference]

    @cached_property
    def arms(self) -> list[str]:
        """Return the arms, in order."""
        return list(dict.fromkeys(one.arm for one in self.means))

    def mean(self, arm: str, place: Place, metric: str = "auc") -> ArmMean:
        """Return an arm's mean at a place."""
        return self._means[arm, place.role, place.name, metric]

    def difference(self, arm: str, place: Place, metric: str = "auc") -> ArmDifference | None:
        """Return an arm's difference at a place; None for the reference, and where no seed is in common."""
        return self._differences.get((arm, place.role, place.name, metric))

    @cached_property
    def _means(self) -> dict[tuple[str, str, str, str], ArmMean]:
        return {(one.arm, one.place.role, one.place.name, one.metric): one for one in self.means}

    @cached_property
    def _differences(self) -> dict[tuple[str, str, str, str], ArmDifference]:
        return {(one.arm, one.place.role, one.place.name, one.metric): one for one in self.differences}


@dataclass(frozen=True)
class Results:
    """All that is told of a comparison."""

    comparison: Comparison
    models: Statistics
    """Of global models at every site."""
    personal: Statistics
    """Of personal models (what a site keeps of its own, or trained alone), each at its own site, beside the
    reference's global model there."""
    ranks: list[ArmRank]
    worst: dict[tuple[str, str], dict[str, float]]
    """By role and arm: how often each site is the worst."""
    matrices: dict[str, list[tuple[str, ArmMean]]]
    """By local arm: (site that trained alone, its mean AUC at a place)."""
    untold: list[str]
    """Sentences about tables of sites alone that cannot be made."""
    costs: list[ArmCost]
    curves: list[Curve]
    sweep: Sweep
    """Macro-F1 by triage threshold, and pairs of arms."""
    diagnoses: Diagnoses
    """Of models with a head of diagnoses."""
    choices: list[Tried]
    """Of a grid: which of its values the calibration splits choose for each arm."""


def results_of(comparison: Comparison) -> Results:
    """Return the statistics of a comparison.

    Raises ValueError where a finished cell's file is damaged, or cells judged other lesions.
    """
    arms = [arm for arm in comparison.arms if any(comparison.cells_of(arm))]
    draws = _global_draws(comparison, arms)
    worst = {
        (place.role, arm): share_of_worst(place.draws, arm, comparison.seed)
        for place in places_of(draws)
        if place.name == WORST
        for arm in arms
    }
    matrices, untold = _matrices(comparison)
    models = _statistics(draws, arms, comparison.reference)
    return Results(
        comparison,
        models,
        _personal(comparison, arms),
        arm_ranks(draws, arms),
        worst,
        matrices,
        untold,
        costs_of(comparison),
        curves_of(comparison),
        sweep_of(comparison, models.places),
        diagnoses_of(comparison),
        choices_of(comparison),
    )


def _statistics(draws: Draws, arms: Sequence[str], reference: str) -> Statistics:
    places = places_of(draws)
    others = {arm: reference for arm in arms if arm != reference} if reference in arms else {}
    means = arm_means(places, COMPARED, arms)
    return Statistics(reference, places, means, arm_differences(places, COMPARED, others))


def _global_draws(comparison: Comparison, arms: Sequence[str]) -> dict[str, list[SiteDraws]]:
    found: dict[str, list[SiteDraws]] = {}
    for site, role in comparison.roles.items():
        cells = [
            cell
            for arm in arms
            for cell in comparison.cells_of(arm)
            if not comparison.left_out_in_turn or cell.held_out == site
        ]
        judged = comparison.judged(cells, site, _arm)
        if judged:
            found.setdefault(role, []).append(_drawn(comparison, site, judged, arms))
    return found


def _drawn(
    comparison: Comparison,
    site: str,
    judged: Mapping[tuple[str, int], Judged],
    arms: Sequence[str],
    metrics: Sequence[str] = COMPARED,
) -> SiteDraws:
    # A site's draws follow from its name: other arms or sites beside it do not change them.
    seed = np.random.SeedSequence([comparison.seed, zlib.crc32(site.encode())])
    return draw_site(
        site, judged, arms, comparison.seeds, metrics=metrics, resamples=comparison.resamples, seed=seed
    )


def _personal(comparison: Comparison, arms: Sequence[str]) -> Statistics:
    """Models of a training site's own: what an arm keeps there, and the local arms' models of the site."""
    reference = f"{REFERENCE_ONCE_MORE}{comparison.reference}"
    draws: list[SiteDraws] = []
    found: dict[str, None] = {}
    by_site = {}
    for site, role in comparison.roles.items():
        if role != "train" or comparison.left_out_in_turn:
            continue
        cells = [c for arm in arms for c in comparison.cells_of(arm)]
        kept = comparison.judged(cells, site, _arm, PERSONAL)
        alone = [c for arm in comparison.local_arms for c in comparison.cells_of(arm) if c.trained == site]
        own = kept | comparison.judged(alone, site, _arm)
        if own:
            cells = list(comparison.cells_of(comparison.reference))
            beside = comparison.judged(cells, site, lambda _: reference)
            by_site[site] = own | beside
            found |= dict.fromkeys(arm for arm, _ in own)
    listed = [reference, *found]
    draws = [_drawn(comparison, site, judged, listed) for site, judged in by_site.items()]
    return _statistics({"train": draws} if draws else {}, listed, reference)


def _arm(cell: Cell) -> str:
    return cell.arm


def _matrices(
    comparison: Comparison,
) -> tuple[dict[str, list[tuple[str, ArmMean]]], list[str]]:
    """Return the local arms' matrices, and why one is missing: it does not cost the rest of the page."""
    found, untold = {}, []
    for arm in comparison.local_arms:
        try:
            matrix = _matrix(comparison, arm)
        except ValueError as error:
            untold.append(f"{arm} has no table of sites alone: {error}")
        else:
            if matrix:
                found[arm] = matrix
    return found, untold


def _matrix(comparison: Comparison, arm: str) -> list[tuple[str, ArmMean]]:
    """Return the mean AUC, at every site, of the model of each site that trained alone.

    Where sites are held out in turn a site is told by the models of its own fold, to which it gave nothing;
    a site that trains in every fold has a model in each, though no model is told at it.
    """
    cells = list(comparison.cells_of(arm))
    trained = [site for site in comparison.sites if any(cell.trained == site for cell in cells)]
    found = []
    for site, role in comparison.roles.items():
        there = [cell for cell in cells if not comparison.left_out_in_turn or cell.held_out == site]
        judged = comparison.judged(there, site, lambda cell: cell.trained)
        if judged:
            drawn = _drawn(comparison, site, judged, trained, ["auc"])
            means = arm_means([Place(site, role, (drawn,))], ["auc"], trained)
            found += [(one.arm, one) for one in means]
    return found
