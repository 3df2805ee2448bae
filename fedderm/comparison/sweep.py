"""The triage thresholds that a comparison tries, and the pairs of arms it tests, from its cells' scores."""

import zlib
from dataclasses import dataclass

import numpy as np

from fedderm.comparison.outcomes import Cell, Comparison
from fedderm.evaluation.arms import ArmDifference, ArmMean, Place, arm_means, pair_differences, places_of
from fedderm.evaluation.lesion_draws import COMPARED, Judged, SiteDraws
from fedderm.evaluation.triage_sweep import OWN, draw_sweep, sweep_metrics


@dataclass(frozen=True)
class Sweep:
    """What thresholds and pairs say; empty where the config asks for neither."""

    steps: tuple[float, ...]
    places: list[Place]
    means: list[ArmMean]
    """Macro-F1 of the four-class decision, of arms that differentiate, by place and threshold."""
    pairs: list[ArmDifference]
    """Second arm of a pair less the first."""


def sweep_of(comparison: Comparison, models: list[Place]) -> Sweep:
    """Return the sweep and the pairs; ``models`` are the places of the comparison's other metrics."""
    settings = comparison.config["compare"]
    steps = tuple(float(step) for step in settings.get("triage_steps") or ())
    pairs = [(str(first), str(second)) for first, second in settings.get("pairs") or ()]
    arms = [arm for arm in comparison.arms if any(map(_differentiates, comparison.cells_of(arm)))]
    places = places_of(_draws(comparison, arms, steps)) if arms and (steps or pairs) else []
    found = _pairs(models, COMPARED, pairs) + _pairs(places, sweep_metrics(steps), pairs)
    return Sweep(steps, places, arm_means(places, sweep_metrics(steps), arms) if steps else [], found)


def _pairs(
    places: list[Place], metrics: tuple[str, ...], pairs: list[tuple[str, str]]
) -> list[ArmDifference]:
    known = set(places[0].draws[0].arms) if places else set()
    here = [(second, first) for first, second in pairs if {first, second} <= known]
    return pair_differences(places, metrics, here)


def _draws(comparison: Comparison, arms: list[str], steps: tuple[float, ...]) -> dict[str, list[SiteDraws]]:
    found: dict[str, list[SiteDraws]] = {}
    for site, role in comparison.roles.items():
        judged = _judged(comparison, arms, site)
        if judged:
            seed = np.random.SeedSequence(
                [comparison.seed, zlib.crc32(site.encode()), zlib.crc32(OWN.encode())]
            )
            drawn = draw_sweep(
                site, judged, arms, comparison.seeds, steps, resamples=comparison.resamples, seed=seed
            )
            found.setdefault(role, []).append(drawn)
    return found


def _judged(comparison: Comparison, arms: list[str], site: str) -> dict[tuple[str, int], Judged]:
    cells = [
        cell
        for arm in arms
        for cell in comparison.cells_of(arm)
        if not comparison.left_out_in_turn or cell.held_out == site
    ]
    return comparison.judged(cells, site, lambda cell: cell.arm)


def _differentiates(cell: Cell) -> bool:
    return bool((cell.config.get("model") or {}).get("scheme", "cascade") != "binary")
