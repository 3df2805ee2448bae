"""Small whole federations for tests: three simulated sites and a net of 0.37 M parameters.

``AppGrid`` runs the real ClientApp in this process, one message at a time and in an order that the test
chooses: no Ray, no network. ``command`` runs ``fedderm`` itself, in a process group of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fedderm import client_app, config
from fedderm.evaluation.long_format import LongRow
from fedderm.in_process import InProcessGrid
from fedderm.local_grid import failure
from fedderm.local_site import LocalSite
from fedderm.node import open_site
from fedderm.preparation import prepare
from fedderm.runs import RunFolder
from fedderm.serving import serve
from strategies.exchange import Event

# A Message needs to know who makes it, one that a test makes without a grid too.
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID

Arrays = dict[str, NDArray[Any]]

# Names whose alphabetical order is not the config's, so that a mix-up of the two shows.
SITES: tuple[dict[str, Any], ...] = (
    {"name": "west", "lesions": 40},
    {"name": "east", "lesions": 28},
    {"name": "away", "lesions": 36, "role": "held-out"},
)


def simulated(name: str, lesions: int = 30, role: str = "train", **more: Any) -> dict[str, Any]:
    """Return one simulated site of a config, small and half malignant."""
    return {
        "name": name,
        "source": "simulated",
        "lesions": lesions,
        "images_per_lesion": 1.2,
        "render_size": 64,
        "role": role,
        "case_mix": {"prevalence": 0.5},
        "splits": {"train": 0.5, "calibration": 0.25, "test": 0.25}
        if role == "train"
        else {"train": 0, "calibration": 0.5, "test": 0.5},
        **more,
    }


def raw_config(root: Path, sites: Sequence[Mapping[str, Any]] = SITES, **changes: Any) -> dict[str, Any]:
    """Return a small experiment's plain values; ``changes`` are merged into its sections."""
    raw: dict[str, Any] = {
        "name": "tiny",
        "seed": 7,
        "rounds": 2,
        "work_dir": str(root / "cache"),
        "runs_dir": str(root / "runs"),
        "strategy": {"name": "fedavg", "deadline": 120.0},
        "model": {"backbone": "test_resnet", "pretrained": "none", "image_size": 32},
        "training": {"batch_size": 8, "learning_rate": 0.001},
        "evaluation": {"bootstrap": 50, "views": 1},
        "resources": {"workers": 1},
        "sites": [dict(site) if "source" in site else simulated(**site) for site in sites],
    }
    for section, value in changes.items():
        raw[section] = {**raw[section], **value} if isinstance(value, dict) and section in raw else value
    return raw


def new_run(root: Path, sites: Sequence[Mapping[str, Any]] = SITES, **changes: Any) -> RunFolder:
    """Return the folder of a new run."""
    return RunFolder.create(config.parse(raw_config(root, sites, **changes)))


def write_config(root: Path, sites: Sequence[Mapping[str, Any]] = SITES, **changes: Any) -> Path:
    """Write a small experiment's YAML and return its path."""
    path = root / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw_config(root, sites, **changes)), encoding="utf-8")
    return path


class AppGrid(InProcessGrid):
    """The real ClientApp in this process, in an order that the test chooses, with replies that it changes.

    ``order`` sorts what waits (positions of the config's sites). ``change`` sees position, message and reply
    and may alter the reply, raise, or return None for a reply that never comes.
    """

    def __init__(
        self,
        count: int,
        order: Callable[[int], Any] = lambda position: position,
        change: Callable[[int, Message, Message], Message | None] | None = None,
    ) -> None:
        super().__init__(client_app.app, count)
        self._order = order
        self._change = change
        self.messages: list[tuple[int, Message]] = []
        """(position of the site, message) of everything sent."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        self.messages += [(self.position_of(message), message) for message in sent]
        return super().push_messages(sent)

    def types_sent_to(self, position: int) -> list[str]:
        """Return the message types that one site has seen, in order."""
        return [message.metadata.message_type for to, message in self.messages if to == position]

    def turn(self, position: int) -> Any:
        return self._order(position)

    def answer(self, message: Message) -> Message | None:
        reply = super().answer(message)
        if reply is None or self._change is None or reply.has_error():
            return reply
        try:
            return self._change(self.position_of(message), message, reply)
        except Exception as error:
            return failure(message, error)


class Notes:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.warnings: list[str] = []
        self.said: list[str] = []
        self.rounds: list[int] = []

    def stage(self, title: str, sites: Sequence[str]) -> None:
        del sites
        self.stages.append(title)

    def site(self, event: Event) -> None:
        del event

    def round_done(self, number: int, rounds: int, rows: Sequence[LongRow]) -> None:
        del rounds, rows
        self.rounds.append(number)

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def progress(self, title: str, done: int, total: int) -> None:
        del title, done, total


def run_in_memory(
    folder: RunFolder,
    order: Callable[[int], Any] = lambda position: position,
    change: Callable[[int, Message, Message], Message | None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    notes: Notes | None = None,
) -> AppGrid:
    """Run, or resume, the folder's experiment with the real apps in this process; return its grid."""
    notes = notes or Notes()
    grid = AppGrid(len(folder.experiment.sites), order, change)
    serve(grid, folder, notes, prepare(folder.experiment, folder, notes), should_stop)
    return grid


def weights(run: Path) -> Arrays:
    """Return a finished run's final weights."""
    return dict(load_file(run / "model" / "model.safetensors"))


def only_run(root: Path) -> Path:
    """Return the folder of the one run below ``root``; a path that does not exist where there is none."""
    found = [path for path in (root / "runs" / "tiny").glob("*") if path.is_dir()]
    return found[0] if len(found) == 1 else root / "none"


def same(first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> bool:
    """Return whether two models are equal bit for bit."""
    return list(first) == list(second) and all(
        first[name].dtype == second[name].dtype and first[name].tobytes() == second[name].tobytes()
        for name in first
    )


def largest_difference(first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> float:
    """Return the largest absolute difference of two models' values."""
    return max(
        float(np.abs(first[name].astype(np.float64) - second[name].astype(np.float64)).max())
        for name in first
    )


def command(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start ``fedderm`` in a process group of its own."""
    code = "from fedderm.cli import main; main()"
    root = str(Path(__file__).resolve().parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_command(*arguments: str | Path, cwd: Path, **environment: str) -> tuple[int, str]:
    """Run ``fedderm`` to its end and return exit code and output."""
    process = command(*arguments, cwd=cwd, **environment)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def local(folder: RunFolder, position: int) -> LocalSite:
    return open_site(folder.experiment, folder.experiment.sites[position], "", frozenset())


def state(folder: RunFolder) -> dict[str, Any]:
    return json.loads((folder.path / "rounds" / "state.json").read_text())
