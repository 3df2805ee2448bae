"""One cell of a comparison, run in this process: server and sites, then the scores of its final model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedderm.client_app import app
from fedderm.comparison.diagnosis_scores import write_diagnoses
from fedderm.comparison.job import Job
from fedderm.comparison.scores import FILE, GLOBAL, PERSONAL, Model, write_scores
from fedderm.evaluation.diagnosis import LesionShares, lesion_shares
from fedderm.evaluation.long_format import LongRow
from fedderm.evaluation.scores import Scores
from fedderm.federation.session import site_states
from fedderm.in_process import InProcessGrid
from fedderm.local_site import LocalSite
from fedderm.model.frozen import is_trunk
from fedderm.node import open_site
from fedderm.runs import RunFolder
from fedderm.serving import conduct
from fedderm.site_method import SiteMethod, adapt_to
from fedderm.weights import read_arrays
from fedderm.worker_models import worker_model
from strategies.exchange import Event

Tell = Callable[[Mapping[str, Any]], None]
"""Takes what happens in a cell, as plain values."""


def run_cell(job: Job, tell: Tell) -> None:
    """Run a cell to its end, or on from its last finished round; write its scores.

    Raises ValueError with a sentence for whatever a person can mend.
    """
    folder = RunFolder.open(Path(job.folder), None if job.data_root is None else Path(job.data_root))
    if not folder.state()["finished"]:
        grid = InProcessGrid(app, len(folder.experiment.sites))
        conduct(grid, folder, _CellObserver(tell), job.salt, job.given_up)
    if not (folder.path / FILE).is_file():
        found = scores_of(folder, job)
        write_diagnoses(folder.path, found.diagnoses)
        write_scores(folder.path / FILE, found.scores)  # last: with it the cell is done


class CellScores(NamedTuple):
    """What a cell's final models say."""

    scores: dict[tuple[str, Model], Scores]
    """By site and model, of images."""
    diagnoses: dict[str, LesionShares]
    """By site, of the global model's head of diagnoses; empty without one."""


def scores_of(folder: RunFolder, job: Job) -> CellScores:
    """Return what the final models say of each site's images.

    The global model is told by a training site's test split and by all images of a held-out site, as its
    strategy adapts it there. A site's personal model is told by its own test split.
    """
    experiment = folder.experiment
    arrays = read_arrays(folder.path / "model" / "model.safetensors")
    trunk = folder.state().get("trunk") or ""
    if experiment.training.trunk == "frozen":  # sites have it, and models are the heads
        arrays = {name: array for name, array in arrays.items() if not is_trunk(name)}
    views, precision = experiment.evaluation.views, experiment.training.precision
    kept = site_states(folder, "-")
    found: dict[tuple[str, Model], Scores] = {}
    diagnoses: dict[str, LesionShares] = {}
    for site in experiment.sites:
        given_up = frozenset(job.given_up.get(site.name, ()))
        local = open_site(experiment, site, job.salt, given_up, trunk)
        model = worker_model(experiment, arrays)
        adapt_to(model, local, experiment.strategy)
        seen = {split: local.score(model, split, views, precision) for split in _measured(local)}
        found[site.name, GLOBAL] = Scores.join(*(one.scores for one in seen.values()))
        told = [one.diagnoses for one in seen.values() if one.diagnoses is not None]
        labels = local.named(np.concatenate([local.rows(split) for split in seen]))
        if told and labels is not None:
            lesions = found[site.name, GLOBAL].lesion
            diagnoses[site.name] = lesion_shares(np.concatenate(told), labels, lesions)
        method = SiteMethod.of(experiment, site.name, kept.get(site.name, {}), {})
        if method.personal:
            method.personalise(model)
            found[site.name, PERSONAL] = local.score(model, "test", views, precision).scores
    return CellScores(found, diagnoses)


def _measured(site: LocalSite) -> tuple[str, ...]:
    return ("calibration", "test") if site.settings.role == "held-out" else ("test",)


class _CellObserver:
    """Passes on which rounds are done and what a person should know."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def stage(self, title: str, sites: Sequence[str]) -> None:
        """Stages of one among many cells are not shown."""

    def site(self, event: Event) -> None:
        """Neither are single sites."""

    def round_done(self, number: int, rounds: int, rows: Sequence[LongRow]) -> None:
        """Tell of a finished round."""
        del rows
        self._tell({"event": "round", "number": number, "rounds": rounds})

    def warn(self, sentence: str) -> None:
        """Tell of a warning."""
        self._tell({"event": "warn", "sentence": sentence})
