"""Macro-F1 of a comparison's heads of diagnoses, and the gap between home and away, from its cells' files."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Final, NamedTuple

import numpy as np

from fedderm.comparison.outcomes import Comparison
from fedderm.evaluation.arms import MEAN
from fedderm.evaluation.diagnosis import LesionShares, Named
from fedderm.evaluation.diagnosis_draws import (
    Confusions,
    Measured,
    draw_confusions,
    gap,
    less,
    mean_measured,
    measures,
    over_seeds,
)
from fedderm.evaluation.documents import Estimate
from sites.diagnosis_schemes import NAMES

POOLED: Final = "(pooled)"
"""Place: all lesions of a role's sites together."""


class Model(NamedTuple):
    """Which model: an arm, the site that trained alone ("" for all), and the seed of training."""

    arm: str
    trained: str
    seed: int


@dataclass(frozen=True)
class DiagnosisMean:
    """A number of a model's head, the mean over seeds."""

    arm: str
    trained: str
    site: str
    """Or POOLED."""
    role: str
    metric: str
    """macro_f1, accuracy, or f1 and a diagnosis."""
    estimate: Estimate
    seeds: int
    lesions: int


@dataclass(frozen=True)
class Gap:
    """Macro-F1 at one source less that at the others, over the diagnoses that both have."""

    arm: str
    trained: str
    site: str
    """The source at home, or MEAN of all."""
    home: Estimate
    away: Estimate
    gap: Estimate
    less_alone: Estimate
    """The gap less that of the model trained at that source alone; no value without a local arm."""
    seeds: int
    lesions: int


@dataclass(frozen=True)
class Diagnoses:
    """What a comparison says of diagnoses; empty where its models have no such head."""

    names: tuple[str, ...] = ()
    means: list[DiagnosisMean] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)


def diagnoses_of(comparison: Comparison) -> Diagnoses:
    """Return the numbers of all arms with a head of diagnoses.

    Raises ValueError where a cell's file is damaged, or cells judged other lesions.
    """
    schemes = [(cell.config.get("model") or {}).get("diagnoses", "none") for cell in comparison.done]
    scheme = next((one for one in schemes if one != "none"), None)
    if scheme is None:
        return Diagnoses()
    names = NAMES[scheme]
    drawn = {site: _drawn(comparison, site, len(names)) for site in comparison.roles}
    drawn = {site: models for site, models in drawn.items() if models}
    lesions = {site: int(next(iter(models.values())).value.sum()) for site, models in drawn.items()}
    means = []
    for role in dict.fromkeys(comparison.roles.values()):
        sites = [site for site in drawn if comparison.roles[site] == role]
        pooled = {} if comparison.left_out_in_turn else _pooled([drawn[site] for site in sites])
        for site, models in [*((site, drawn[site]) for site in sites), (POOLED, pooled)]:
            count = lesions.get(site) or sum(lesions[one] for one in sites)
            means += _means(models, (site, role), names, count)
    training = [site for site in drawn if comparison.roles[site] == "train"]
    gaps = _gaps({site: drawn[site] for site in training}, lesions) if len(training) > 1 else []
    return Diagnoses(names, means, gaps)


def _drawn(comparison: Comparison, site: str, number: int) -> dict[Model, Confusions]:
    found: dict[Model, list[LesionShares]] = {}
    several = set(comparison.local_arms)
    for cell in comparison.done:
        shares = cell.diagnoses.get(site)
        if shares is not None and (not comparison.left_out_in_turn or cell.held_out == site):
            model = Model(cell.arm, cell.trained if cell.arm in several else "", cell.seed)
            found.setdefault(model, []).append(shares)
    whole = comparison.folds or 1
    named = {model: _joined(parts) for model, parts in found.items() if len(parts) == whole}
    if not any(len(one.truth) for one in named.values()):
        return {}
    words = (site, "diagnoses")
    seed = np.random.SeedSequence([comparison.seed, *(zlib.crc32(word.encode()) for word in words)])
    return draw_confusions(named, number, comparison.resamples, seed)


def _joined(parts: Sequence[LesionShares]) -> Named:
    """Return all folds' lesions, sorted by id; each is in one of them."""
    named = [one.named() for one in parts]
    truth, told, lesion = (np.concatenate(column) for column in zip(*named, strict=True))
    order = np.argsort(lesion)
    return Named(truth[order], told[order], lesion[order])


def _pooled(sites: Sequence[Mapping[Model, Confusions]]) -> dict[Model, Confusions]:
    """Return the models that every site has judged, over all lesions; nothing for a single site."""
    if len(sites) < 2:
        return {}
    models = [model for model in sites[0] if all(model in one for one in sites)]
    return {model: reduce(add, (one[model] for one in sites)) for model in models}


def _means(
    models: Mapping[Model, Confusions], place: tuple[str, str], names: Sequence[str], lesions: int
) -> list[DiagnosisMean]:
    found: dict[tuple[str, str, str], list[Measured]] = {}
    for model, confusions in models.items():
        for metric, measured in measures(confusions, names).items():
            found.setdefault((model.arm, model.trained, metric), []).append(measured)
    return [
        DiagnosisMean(arm, trained, *place, metric, over_seeds(seeds, lesions), len(seeds), lesions)
        for (arm, trained, metric), seeds in found.items()
    ]


def _gaps(sites: Mapping[str, Mapping[Model, Confusions]], lesions: Mapping[str, int]) -> list[Gap]:
    everywhere = [
        model for model in next(iter(sites.values())) if all(model in one for one in sites.values())
    ]
    measured: dict[tuple[str, str], dict[int, dict[str, Measured]]] = {}
    for home in sites:
        for model in everywhere:
            if model.trained in ("", home):
                away = reduce(add, (one[model] for site, one in sites.items() if site != home))
                found = gap(sites[home][model], away)
                measured.setdefault((model.arm, home), {})[model.seed] = found
    alone = next((model.arm for model in everywhere if model.trained), None)
    for arm in dict.fromkeys(arm for arm, _ in measured):
        of_sites = [measured[arm, home] for home in sites if (arm, home) in measured]
        seeds = [seed for seed in of_sites[0] if all(seed in one for one in of_sites)]
        if len(of_sites) == len(sites) and seeds:
            measured[arm, MEAN] = {
                seed: {
                    name: mean_measured([one[seed][name] for one in of_sites])
                    for name in ("home", "away", "gap")
                }
                for seed in seeds
            }
    local = {model.arm for model in everywhere if model.trained}
    return [
        _gap(arm, site, by_seed, measured.get((alone, site)) if alone else None, local, sum(lesions.values()))
        for (arm, site), by_seed in measured.items()
    ]


def _gap(
    arm: str,
    site: str,
    by_seed: Mapping[int, Mapping[str, Measured]],
    alone: Mapping[int, Mapping[str, Measured]] | None,
    local: set[str],
    lesions: int,
) -> Gap:
    def told(name: str, lowest: float = 0.0) -> Estimate:
        return over_seeds([one[name] for one in by_seed.values()], lesions, lowest)

    paired = [] if alone is None or arm in local else [seed for seed in by_seed if seed in alone]
    apart = [less(by_seed[seed]["gap"], alone[seed]["gap"]) for seed in paired] if alone else []
    return Gap(
        arm,
        "each alone" if arm in local and site == MEAN else site if arm in local else "",
        site,
        told("home"),
        told("away"),
        told("gap", -1.0),
        over_seeds(apart, lesions, -1.0) if apart else Estimate(value=None),
        len(by_seed),
        lesions,
    )
