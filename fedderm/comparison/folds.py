"""The folds of a comparison: each site held out in turn, or each part of every site's lesions."""

from collections.abc import Sequence
from typing import Any, Final

from fedderm import config
from fedderm.compare_settings import CompareSettings
from fedderm.config_sentences import nearest
from fedderm.settings import Experiment

Raw = dict[str, Any]

FOLDS: Final = 5
"""Of lesions, where the config does not say how many."""


def section_of(experiment: Experiment) -> CompareSettings:
    """Return the section ``compare``; raises ValueError where the config has none."""
    if experiment.compare is None:
        raise ValueError(
            "compare: is missing; say which arms and seeds to compare (docs/compare.md), or use fedderm run"
        )
    return experiment.compare


def folds_of(experiment: Experiment) -> dict[str, Experiment]:
    """Return the federation of each fold by the site held out, or by the fold of lesions; at "" the
    experiment, where there are no folds.

    A site that is held out has a held-out site's default splits; one that is listed as held out and trains in
    a fold has a training site's. Raises ValueError for a name that is no site, and where none would train.
    """
    settings = section_of(experiment)
    if settings.protocol == "fixed":
        return {"": experiment}
    if settings.protocol == "lesion_folds":
        return _lesion_folds(experiment, settings.folds or FOLDS)
    names = [site.name for site in experiment.sites]
    rotation = settings.leave_out or names
    for name in rotation:
        if name not in names:
            raise ValueError(
                f"compare.leave_out: {name} is no site of this experiment{nearest(name, names)}; there are "
                f"{', '.join(names)}"
            )
    return {name: _fold(experiment, name, rotation) for name in names if name in rotation}


def _lesion_folds(experiment: Experiment, number: int) -> dict[str, Experiment]:
    """Return the federation of each fold of lesions.

    Raises ValueError for a held-out site, which trains on no lesions, and for a site with a fold already.
    """
    for site in experiment.sites:
        wrong, mend = "", ""
        if site.role != "train":
            wrong, mend = "is held out", "give it role: train, or leave it out"
        elif site.fold is not None:
            wrong, mend = "has a fold of its own", "remove its fold"
        if wrong:
            raise ValueError(
                "compare.protocol: lesion_folds tests each lesion of a site while its others train, and "
                f"{site.name} {wrong}; {mend}"
            )
    found = {}
    for index in range(number):
        raw = raw_of(experiment)
        for site in raw["sites"]:
            site["fold"] = {"index": index, "of": number}
        found[f"fold{index + 1}"] = parsed(raw, f"compare.protocol: fold {index + 1} of {number}")
    return found


def _fold(experiment: Experiment, left_out: str, rotation: Sequence[str]) -> Experiment:
    raw = raw_of(experiment)
    for site in raw["sites"]:
        if site["name"] == left_out:
            site.update(role="held-out", splits=None)
        elif site["name"] in rotation and site["role"] == "held-out":
            site.update(role="train", splits=None)
    return parsed(raw, f"compare.protocol: with {left_out} held out")


def parsed(raw: Raw, where: str) -> Experiment:
    """Return the experiment of plain values; raises ValueError with ``where`` in front."""
    try:
        return config.parse(raw)
    except config.ConfigError as error:
        raise ValueError(f"{where}: {error}") from error


def raw_of(experiment: Experiment) -> Raw:
    """Return an experiment's plain values without its comparison."""
    return {**experiment.model_dump(mode="json"), "compare": None}
