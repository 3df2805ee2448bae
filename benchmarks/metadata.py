"""What metadata are worth to the models of a comparison's arm, and what is lost where they are missing.

Every model of the arm (one a seed, heads on a frozen trunk) scores the same lesions with what the site's
table tells, without each field, and with nothing told: held-out sites by all their lesions, training sites by
their test split.

    python -m benchmarks.metadata COMPARISON --arm all-three --beside image-alone --data-root ../shared/data
"""

import argparse
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.claims import told
from fedderm.cli.console import Console
from fedderm.ensemble_point import open_sites
from fedderm.evaluation.arms import arm_differences, arm_means, places_of
from fedderm.evaluation.documents import Estimate
from fedderm.evaluation.lesion_draws import Judged, SiteDraws, draw_site
from fedderm.evaluation.scores import Scores
from fedderm.local_site import LocalSite
from fedderm.model.frozen import frozen_trunk, is_trunk
from fedderm.model.heads import Heads
from fedderm.model.state import load_arrays, to_arrays
from fedderm.predictor import Predictor
from sites.metadata import Field, columns

ALL = "as the table tells"
NOTHING = "nothing told"
BESIDE = "other models, of images alone"
Models = dict[int, tuple[Heads, Predictor]]
"""By seed."""


def models_of(comparison: Path, arm: str) -> Models:
    """Return an arm's finished models by seed; raises ValueError where there are none."""
    found = sorted(comparison.glob(f"cells/{arm}/*/model/model.json"))
    if not found:
        raise ValueError(f"{comparison}: holds no finished cell of the arm {arm}; see its folder cells")
    opened = {int(one.parents[1].name): Predictor.open(one.parents[1]) for one in found}
    return {seed: (heads_of(one), one) for seed, one in opened.items()}


def heads_of(predictor: Predictor) -> Heads:
    """Return what a model says of its frozen trunk's features, which are on the disk."""
    whole = predictor.single("benchmarks.metadata")
    heads = Heads(predictor.settings, whole.triage.in_features)
    load_arrays(heads, {name: one for name, one in to_arrays(whole).items() if not is_trunk(name)})
    return heads


def scored(site: LocalSite, heads: Heads, views: int) -> Scores:
    """Return the scores of the lesions by which a site judges, one row each."""
    splits = ("test",) if site.settings.role == "train" else ("calibration", "test")
    parts = [site.score(heads, split, views, "float32").scores for split in splits]
    return Scores.join(*parts).per_lesion()


def without(site: LocalSite, fields: tuple[Field, ...]) -> LocalSite:
    """Return the site as if its table lacked ``fields``."""
    table = site.table.copy()
    for field in fields:
        table[field] = np.nan if field == "age" else None
    found = replace(site, table=table)
    found.__dict__["images"] = site.images  # the map of features that is open already
    return found


def gaps(site: LocalSite) -> str:
    """Return how many of a site's images lack each field."""
    known = site.known(np.arange(len(site.table)))
    names = site.metadata_fields
    last = np.cumsum([len(columns([name])) for name in names]) - 1
    shares = known[:, last].mean(axis=0)
    return ", ".join(f"{name} {share:.0%}" for name, share in zip(names, shares, strict=True))


def judged(site: LocalSite, models: Models, beside: Models) -> SiteDraws:
    """Return the AUC of all models at a site under every state of its table, and that of others beside."""
    fields = site.metadata_fields
    states = {ALL: site, NOTHING: without(site, fields)}
    if len(fields) > 1:
        states |= {f"without {field}": without(site, (field,)) for field in fields}
    found = {
        (state, seed): Judged(scored(shown, heads, model.views), model.point)
        for state, shown in states.items()
        for seed, (heads, model) in models.items()
    }
    alone = replace(without(site, ()), metadata_fields=())
    found |= {
        (BESIDE, seed): Judged(scored(alone, heads, model.views), model.point)
        for seed, (heads, model) in beside.items()
    }
    arms = [*states, *([BESIDE] if beside else [])]
    draws = np.random.SeedSequence([zlib.crc32(site.settings.name.encode())])
    return draw_site(site.settings.name, found, arms, list(models), metrics=("auc",), seed=draws)


def shown(estimate: Estimate, form: str) -> str:
    """Return a value with its interval."""
    if estimate.value is None:
        return "-"
    told = format(estimate.value, form)
    if estimate.lower is None or estimate.upper is None:
        return told
    return f"{told} [{estimate.lower:{form}}, {estimate.upper:{form}}]"


def main() -> None:
    """Print a table of AUC by site and state, means over seeds with intervals over seeds and lesions."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("comparison", type=Path)
    arguments.add_argument("--arm", required=True, help="folder of an arm with model.metadata")
    arguments.add_argument("--beside", help="folder of an arm without, at the same lesions")
    arguments.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    asked = arguments.parse_args()
    models = models_of(asked.comparison, asked.arm)
    beside = models_of(asked.comparison, asked.beside) if asked.beside else {}
    first = next(iter(models))
    trunk = frozen_trunk(models[first][1].single("benchmarks.metadata")).digest
    run = asked.comparison / "cells" / asked.arm / str(first)
    with Console() as console:
        _, sites = open_sites([run], asked.data_root, console, trunk)
    draws: dict[str, list[SiteDraws]] = {}
    for site in sites:
        draws.setdefault(site.settings.role, []).append(judged(site, models, beside))
        print(f"{site.settings.name}: images without {gaps(site)}", flush=True)
    places = places_of(draws)
    states = list(draws[sites[0].settings.role][0].arms)
    means = {(one.place, one.arm): one for one in arm_means(places, ("auc",), states)}
    references = {state: NOTHING if state == BESIDE else ALL for state in states if state != ALL}
    differences = {(one.place, one.arm): one for one in arm_differences(places, ("auc",), references)}
    print(f"\n{len(models)} seeds; the last column: less {ALL}, and of other models less {NOTHING}")
    print("| site | told | n (malignant) | AUC | difference |\n|---|---|---|---|---|")
    for (place, state), mean in means.items():
        less = differences.get((place, state))
        cells = [f"{place.name} ({place.role})", state, f"{place.lesions:,} ({place.malignant})"]
        cells += [shown(mean.estimate, ".3f"), "" if less is None else shown(less.estimate, "+.3f")]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    told(main)
