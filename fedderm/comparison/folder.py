"""A comparison's folder: the config, the audit, one run folder a cell, and ``cells.csv`` over all of them."""

import csv
import io
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from fedderm import config
from fedderm.comparison.cell_row import COLUMNS, CellRow, Status
from fedderm.comparison.folds import section_of
from fedderm.comparison.plan import Cell
from fedderm.comparison.reading import CELLS
from fedderm.comparison.scores import FILE, pooled_auc, read_scores
from fedderm.environment import describe
from fedderm.runs import RunFolder, new_folder
from fedderm.settings import Experiment
from fedderm.whole_file import write_whole


@dataclass(frozen=True)
class ComparisonFolder:
    """One comparison's folder and the experiment it holds."""

    run: RunFolder
    """The folder as a writer of whole files; it is no run itself."""

    @property
    def path(self) -> Path:
        """Return where the folder lies."""
        return self.run.path

    @property
    def experiment(self) -> Experiment:
        """Return the experiment with its section ``compare``."""
        return self.run.experiment

    @classmethod
    def create(cls, experiment: Experiment) -> Self:
        """Return a new folder ``<runs_dir>/<name>/<timestamp>`` with the resolved config."""
        folder = cls(RunFolder(new_folder(experiment.runs_dir / experiment.name), experiment))
        folder.run.write_text("config.yaml", config.dump(experiment))
        folder.run.write_json("environment.json", describe(experiment.seed, folder.run.since))
        folder.write_cells([])
        return folder

    @classmethod
    def open(cls, path: Path, data_root: Path | None = None) -> Self:
        """Return an existing comparison, to go on with; raises ValueError where the folder is none."""
        if not (path / CELLS).is_file() or not (path / "config.yaml").is_file():
            if not path.exists():
                raise ValueError(f"{path}: does not exist; give the folder that fedderm compare printed")
            instead = "give the folder that fedderm compare printed"
            if (path / "rounds").is_dir():
                instead = f"it is a run's: fedderm run --resume {shlex.quote(str(path))}"
            elif inside := sorted(one.parent for one in path.glob(f"*/{CELLS}")):
                instead = f"the newest one in it is {inside[-1]}"
            raise ValueError(f"{path}: is no comparison's folder (it has no {CELLS}); {instead}")
        experiment = config.load(path / "config.yaml", data_root=data_root)
        section_of(experiment)
        return cls(RunFolder(path.resolve(), experiment))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from going on with this comparison; raises ValueError where one does."""
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise ValueError(
                f"{self.path}: another fedderm is at work on this comparison; wait for it or stop it"
            ) from error

    def cell_path(self, cell: Cell) -> Path:
        """Return where a cell's run folder lies."""
        return self.path / "cells" / cell.id

    def prepare_cell(self, cell: Cell, audit: Mapping[str, Any]) -> Path:
        """Return a cell's run folder, made where there is none yet; what it has finished stays."""
        path = self.cell_path(cell)
        if not (path / "config.yaml").is_file():
            RunFolder.create_at(path, cell.experiment)
        RunFolder(path, cell.experiment).write_json("audit.json", audit)
        return path

    def is_done(self, cell: Cell) -> bool:
        """Return whether a cell has its final evaluation and its scores."""
        path = self.cell_path(cell)
        return (path / FILE).is_file() and bool(_json(path / "rounds" / "state.json").get("finished"))

    def row(self, cell: Cell, error: str = "") -> CellRow:
        """Return a cell's line as its folder stands; ``error`` says why it failed in this sitting."""
        path = self.cell_path(cell)
        state = _json(path / "rounds" / "state.json")
        sites = [site for entry in state.get("history", []) for site in entry["sites"].values()]
        # A baseline trains in one place: what it passes between processes is no exchange.
        traffic = state.get("traffic", {}) if cell.experiment.baseline == "none" else {}
        status: Status = "failed" if error else "done" if self.is_done(cell) else "waiting"
        return CellRow(
            cell=cell.id,
            arm=cell.arm,
            seed=cell.seed,
            held_out=cell.held_out,
            trained=cell.trained,
            status=status,
            seconds=float(_json(path / "environment.json").get("seconds", 0.0)),
            images=int(sum(site.get("images", 0) for site in sites)),
            bytes_down=int(traffic.get("down", 0)),
            bytes_up=int(traffic.get("up", 0)),
            error=" ".join(error.split()),
        )

    def write_cells(self, rows: Sequence[CellRow]) -> None:
        """Write ``cells.csv`` whole."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
        write_whole(self.path / CELLS, text.getvalue())

    def aucs(self, cell: Cell) -> dict[str, float | None]:
        """Return a finished cell's AUC by role: of the lesions of all held-out sites together, and of the
        training sites' test splits."""
        scores = read_scores(self.cell_path(cell) / FILE)
        return {
            role: pooled_auc(scores, [site.name for site in cell.experiment.sites if site.role == role])
            for role in ("held-out", "train")
        }


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON file's content; empty where it is missing or damaged: the cell is then run again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
