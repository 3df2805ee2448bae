"""Which runs a coordinator held, and in which round each site answered last."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fedderm.deploy.coordinator import Coordinator

_LATEST = 20
"""Runs that are looked into for a site's last answer."""


class LastAnswer(NamedTuple):
    """The last finished round that a site took part in."""

    round: int
    rounds: int
    run: str
    """The run's name and time."""
    version: str
    """Of fedderm, at server and site: they must be the same."""

    def __str__(self) -> str:
        """Return it in words."""
        return f"round {self.round}/{self.rounds} of {self.run}, fedderm {self.version}"


def note_run(coordinator: Coordinator, run_id: int, folder: Path) -> None:
    """Note where a run of the SuperLink's has its folder."""
    with coordinator.runs.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"run_id": run_id, "folder": str(folder)}) + "\n")
    coordinator.runs.chmod(0o600)


def last_answers(coordinator: Coordinator) -> dict[str, LastAnswer]:
    """Return each site's last answer in the latest runs whose folders are still there."""
    found: dict[str, LastAnswer] = {}
    for folder in _latest(coordinator.runs):
        try:
            state = json.loads((folder / "rounds" / "state.json").read_text(encoding="utf-8"))
            version = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["fedderm"]
        except (OSError, ValueError, KeyError):
            continue  # no round has ended, or the folder was taken away
        for site, number in _rounds(folder, state).items():
            run = f"{folder.parent.name}/{folder.name}"
            found.setdefault(site, LastAnswer(number, state["rounds"], run, version))
    return found


def _latest(path: Path) -> Iterator[Path]:
    """Yield the folders of the latest runs, the newest first, each once."""
    if not path.is_file():
        return
    folders = [json.loads(line)["folder"] for line in path.read_text(encoding="utf-8").splitlines()]
    yield from map(Path, list(dict.fromkeys(reversed(folders)))[:_LATEST])


def _rounds(folder: Path, state: dict[str, Any]) -> dict[str, int]:
    """Return the last round in which each site was trained or evaluated."""
    found: dict[str, int] = {}
    for entry in state["history"]:
        for site in entry["sites"]:
            found[site] = int(entry["round"])
    table = folder / "rounds" / "metrics.csv"
    if table.is_file():
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found[row["site"]] = max(found.get(row["site"], 0), int(float(row["round"])))
    return found
