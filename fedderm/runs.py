"""The run folder: what an experiment leaves, written so that a kill at any moment loses at most a round."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Self

import numpy as np

from fedderm import config
from fedderm.evaluation.counts import Counts
from fedderm.evaluation.documents import FederationEvaluation, SiteEvaluation
from fedderm.evaluation.long_format import LongRow
from fedderm.evaluation_files import json_of, write_evaluation
from fedderm.round_metrics import METRICS, append_metrics, metrics_before
from fedderm.run_state import RunState, damaged
from fedderm.settings import Experiment
from fedderm.weights import Arrays, read_arrays, save_arrays
from fedderm.whole_file import write_whole
from strategies.running_mean import RunningMean

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class RunFolder:
    """One run's folder and the experiment it holds."""

    path: Path
    experiment: Experiment
    since: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False)
    """When this sitting began: sites are loaded and audited before a server starts."""

    @classmethod
    def create(cls, experiment: Experiment) -> Self:
        """Return a new folder ``<runs_dir>/<name>/<timestamp>`` with the resolved config."""
        return cls.create_at(new_folder(experiment.runs_dir / experiment.name), experiment)

    @classmethod
    def create_at(cls, path: Path, experiment: Experiment) -> Self:
        """Return the run folder at ``path``, with the resolved config: a cell of a comparison."""
        folder = cls(path.resolve(), experiment)
        for name in ("rounds", "model", "evaluation", "gallery"):
            (folder.path / name).mkdir(parents=True, exist_ok=True)
        folder.write_text("config.yaml", config.dump(experiment))
        return folder

    @classmethod
    def open(cls, path: Path, data_root: Path | None = None) -> Self:
        """Return an existing run, to go on with; ``data_root`` is where the data lie now, if elsewhere.

        Raises ValueError where the folder is no run, or a file that going on needs is missing or damaged,
        before minutes of preparation.
        """
        if not (path / "config.yaml").is_file():
            raise ValueError(
                f"{path}: is no run folder (it has no config.yaml); give the folder that a run printed"
            )
        folder = cls(path.resolve(), config.load(path / "config.yaml", data_root=data_root))
        state = folder.state()
        if state["round"] and not state["finished"]:
            folder.latest_arrays()
            metrics_before(folder.path / "rounds" / METRICS, state["round"] + 1)
        return folder

    def write_text(self, name: str, text: str) -> None:
        """Write a file in one step: a reader sees the old text or the new one, whole."""
        write_whole(self.path / name, text)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file in one step."""
        self.write_text(name, json_of(content))

    def read_json(self, name: str) -> Any:
        """Return a JSON file's content, None where there is none; raises ValueError where it is damaged."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise damaged(path, str(error)) from error

    def state(self) -> dict[str, Any]:
        """Return the state after the last finished round; round 0 where none has finished.

        Raises ValueError where the file is damaged or belongs to another config.
        """
        return self._state.read()

    def write_state(self, state: dict[str, Any]) -> None:
        """Write the state in one step."""
        self._state.write(state)

    @cached_property
    def _state(self) -> RunState:
        return RunState(self.path / "rounds" / "state.json", self.experiment.rounds)

    def checkpoint(self, number: int) -> Path:
        """Return where the global model after round ``number`` lies."""
        return self.path / "rounds" / f"{number:04d}.safetensors"

    def latest_arrays(self) -> Arrays | None:
        """Return the global model after the last finished round, or None before the first."""
        number = int(self.state()["round"])
        return read_arrays(self.checkpoint(number)) if number else None

    def memory(self, number: int) -> Path:
        """Return where the strategy's own memory after round ``number`` lies, if it has one."""
        return self.path / "rounds" / f"{number:04d}.memory.safetensors"

    def latest_memory(self) -> Arrays:
        """Return what the strategy remembered after the last finished round; empty where it has no memory."""
        path = self.memory(int(self.state()["round"]))
        return read_arrays(path) if path.is_file() else {}

    def mean_of_last(self, count: int) -> Arrays:
        """Return the mean of the global models after the last ``count`` rounds, the last one's integers."""
        last = int(self.state()["round"])
        mean = RunningMean()
        for number in range(last - count + 1, last + 1):
            arrays = read_arrays(self.checkpoint(number))
            mean.add({name: one for name, one in arrays.items() if np.issubdtype(one.dtype, np.inexact)}, 1.0)
        found = mean.result()
        return {name: found.get(name, one) for name, one in arrays.items()}

    def finish_round(
        self,
        number: int,
        arrays: Arrays,
        entry: Mapping[str, Any],
        rows: Iterable[LongRow],
        memory: Arrays | None = None,
        traffic: Mapping[str, int] | None = None,
    ) -> None:
        """Write a round to disk: model and metrics first, the state last, so that it never promises more.

        ``traffic``: bytes of the run so far.
        """
        save_arrays(self.checkpoint(number), arrays)
        if memory:
            save_arrays(self.memory(number), memory)
        append_metrics(self.path / "rounds" / METRICS, number, rows)
        state = self.state()
        history = [done for done in state["history"] if done["round"] < number]
        history.append({"round": number, **entry})
        told = {} if traffic is None else {"traffic": dict(traffic)}
        self.write_state({**state, **told, "round": number, "history": history})
        kept = max(KEPT_CHECKPOINTS, self.experiment.strategy.average_last)
        for old in (self.path / "rounds").glob("[0-9]*.safetensors"):
            if int(old.name.partition(".")[0]) <= number - kept:
                old.unlink()

    def finish(self) -> None:
        """Mark the run as finished."""
        self.write_state({**self.state(), "finished": True})

    def end_sitting(self) -> None:
        """Add this sitting's seconds, from its very begin, to those of earlier ones."""
        environment = self.read_json("environment.json") or {}
        seconds = (datetime.now(UTC) - self.since).total_seconds()
        total = float(environment.get("seconds", 0)) + max(0.0, seconds)
        self.write_json("environment.json", {**environment, "seconds": round(total, 1)})

    def write_model(self, arrays: Arrays, description: Mapping[str, Any], reference: Arrays) -> None:
        """Write the final model: weights, what training sites look like, and what is needed to use them."""
        save_arrays(self.path / "model" / "model.safetensors", arrays)
        if reference:
            save_arrays(self.path / "model" / "reference.safetensors", reference)
        self.write_json("model/model.json", dict(description))

    def write_evaluation(
        self,
        sites: Mapping[str, SiteEvaluation],
        federation: FederationEvaluation,
        rows: Iterable[LongRow],
        counts: Mapping[str, Counts],
    ) -> None:
        """Write the final evaluation: documents, the long table, and counts by ``site/split``."""
        write_evaluation(self.path, sites, federation, rows, counts)


def new_folder(parent: Path) -> Path:
    """Return a new, empty folder ``<parent>/<timestamp>``, the time in UTC."""
    parent.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for attempt in count():
        path = parent / (stamp if attempt == 0 else f"{stamp}-{attempt}")
        with suppress(FileExistsError):
            path.mkdir()
            return path.resolve()
    raise AssertionError("counting never ends")
