"""What the cells of a comparison left, read into typed objects; docs/compare.md has the folder's contract."""

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, get_args

import pandas as pd
from pydantic import ValidationError

from fedderm.comparison.cell_row import COLUMNS as CELL_COLUMNS
from fedderm.comparison.cell_row import CellRow, Status
from fedderm.comparison.diagnosis_scores import read_diagnoses
from fedderm.comparison.reading import read_json, read_table, read_yaml, unreadable
from fedderm.comparison.scores import FILE, Model, read_scores
from fedderm.evaluation.diagnosis import LesionShares
from fedderm.evaluation.documents import OperatingPoint
from fedderm.evaluation.lesion_draws import RESAMPLES, Judged
from fedderm.evaluation.long_format import COLUMNS
from fedderm.evaluation.scores import Scores

FEWEST_RESAMPLES: Final = 1000
"""A comparison without intervals says nothing: what the cells save for theirs, it does not."""


@dataclass(frozen=True)
class Cell(CellRow):
    """One run of a comparison: its line, and what lies in its folder."""

    path: Path

    @property
    def id(self) -> str:
        """Return the cell's name among all: arm, seed, and the site held out or alone."""
        return self.cell

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return the cell's own experiment."""
        return read_yaml(self.path / "config.yaml")

    @cached_property
    def point(self) -> OperatingPoint:
        """Return the federation's operating point."""
        path = self.path / "model" / "model.json"
        try:
            return OperatingPoint.model_validate(read_json(path).get("federation_point"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(("federation_point", *map(str, first["loc"])))
            raise unreadable(path, f"{where}: {first['msg']}") from error

    @cached_property
    def scores(self) -> dict[tuple[str, Model], Scores]:
        """Return the scores of each site's lesions, by site and model."""
        return read_scores(self.path / FILE)

    @cached_property
    def diagnoses(self) -> dict[str, LesionShares]:
        """Return what the head of diagnoses says of each site's lesions; empty without one."""
        return read_diagnoses(self.path)

    def judged(self, site: str, model: Model) -> Judged | None:
        """Return how a model of this cell judged a site's lesions; None where it did not."""
        scores = self.scores.get((site, model))
        return None if scores is None else Judged(scores, self.point)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """Return the metrics of every round, in the long format."""
        return read_table(self.path / "rounds" / "metrics.csv", COLUMNS)

    def traffic(self) -> dict[int, tuple[int, int]]:
        """Return the bytes (down, up) of training alone, summed to the end of each round."""
        path = self.path / "rounds" / "state.json"
        found, down, up = {}, 0, 0
        try:
            for entry in read_json(path).get("history") or []:
                down, up = down + int(entry["bytes_down"]), up + int(entry["bytes_up"])
                found[int(entry["round"])] = (down, up)
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable(path, f"history: {error!r}") from error
        return found


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder."""

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Return the experiment's name; the folder's where the config has none."""
        return str(self.config.get("name") or self.path.name)

    @property
    def reference(self) -> str:
        """Return the label of the arm that all others are compared with."""
        return str(self.config["compare"]["reference"])

    @property
    def left_out_in_turn(self) -> bool:
        """Return whether each site in turn was held out."""
        return bool(self.config["compare"].get("protocol") == "leave_one_site_out")

    @cached_property
    def folds(self) -> int:
        """Return how many folds of lesions there are; 0 without cross-validation."""
        if self.config["compare"].get("protocol") != "lesion_folds":
            return 0
        return len({cell.held_out for cell in self.cells})

    def judged(
        self, cells: Iterable[Cell], site: str, label: Callable[[Cell], str], model: Model = "global"
    ) -> dict[tuple[str, int], Judged]:
        """Return how models of ``cells`` judged a site's lesions, by ``label`` and seed.

        In cross-validation all folds' lesions together; a seed that lacks a fold is left out.
        """
        found: dict[tuple[str, int], list[Judged]] = {}
        for cell in cells:
            judged = cell.judged(site, model)
            if judged is not None:
                found.setdefault((label(cell), cell.seed), []).append(judged)
        if self.folds:
            return {key: Judged.of_folds(ones) for key, ones in found.items() if len(ones) == self.folds}
        return {key: ones[-1] for key, ones in found.items()}

    @property
    def resamples(self) -> int:
        """Return how often lesions are drawn: ``evaluation.bootstrap``, but FEWEST_RESAMPLES at least."""
        asked = (self.config.get("evaluation") or {}).get("bootstrap", RESAMPLES)
        return max(FEWEST_RESAMPLES, int(asked))

    @property
    def seed(self) -> int:
        """Return the data's seed, which the draws of lesions take."""
        return int(self.config.get("seed") or 0)

    @property
    def done(self) -> list[Cell]:
        """Return the finished cells."""
        return [cell for cell in self.cells if cell.status == "done"]

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Return the planned seeds of training."""
        return tuple(dict.fromkeys(cell.seed for cell in self.cells))

    @cached_property
    def finished_seeds(self) -> tuple[int, ...]:
        """Return the seeds with which a cell is finished."""
        return tuple(seed for seed in self.seeds if any(cell.seed == seed for cell in self.done))

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Return the arms with one global model a cell, in the config's order."""
        return tuple(dict.fromkeys(cell.arm for cell in self.cells if cell.arm not in self.local_arms))

    @cached_property
    def local_arms(self) -> tuple[str, ...]:
        """Return the arms in which each training site trained alone: a model for each of two or more."""
        trained: dict[str, set[str]] = {}
        for cell in self.cells:
            trained.setdefault(cell.arm, set()).add(cell.trained)
        return tuple(arm for arm, sites in trained.items() if len(sites) > 1)

    @property
    def sites(self) -> dict[str, str]:
        """Return the roles of all sites of the config, by name, as they are listed there."""
        return {str(site["name"]): str(site.get("role", "train")) for site in self.config["sites"]}

    @cached_property
    def roles(self) -> dict[str, str]:
        """Return the sites' roles, held-out ones first; where each was left out in turn all are held out."""
        listed = self.sites
        if self.left_out_in_turn:
            turns = {cell.held_out for cell in self.cells}
            return {name: "held-out" for name in listed if name in turns}
        return dict(sorted(listed.items(), key=lambda site: site[1] != "held-out"))

    def cells_of(self, arm: str) -> Iterator[Cell]:
        """Yield an arm's finished cells."""
        return (cell for cell in self.done if cell.arm == arm)


def read_comparison(folder: Path) -> Comparison:
    """Return a comparison's folder; failed and waiting cells are listed in it.

    Raises ValueError with one sentence where the folder is none, or holds no cell that is done.
    """
    folder = Path(folder)
    if not (folder / "cells.csv").is_file():
        raise ValueError(
            f"{folder} is not a comparison's folder: it holds no cells.csv; give the folder that "
            "`fedderm compare` printed."
        )
    config = read_yaml(folder / "config.yaml")
    if not isinstance(config.get("compare"), dict) or not isinstance(config.get("sites"), list):
        raise ValueError(
            f"{folder / 'config.yaml'} has no sections compare and sites; it is no comparison's."
        )
    table = read_table(folder / "cells.csv", CELL_COLUMNS)
    cells = tuple(_cell(folder, row) for row in table.to_dict("records"))
    if not any(cell.status == "done" for cell in cells):
        raise ValueError(
            f"{folder} has no finished cell to compare; go on with "
            f"`fedderm compare --resume {shlex.quote(str(folder))}`."
        )
    path = folder / "environment.json"
    return Comparison(folder, config, read_json(path) if path.is_file() else {}, cells)


def _cell(folder: Path, row: dict[Any, Any]) -> Cell:
    status: Status | None = next((one for one in get_args(Status) if one == row["status"]), None)
    try:
        if status is None:
            raise ValueError(f"status {row['status']!r} is none of {', '.join(get_args(Status))}")
        return Cell(
            path=folder / "cells" / row["cell"],
            cell=row["cell"],
            arm=row["arm"],
            seed=int(row["seed"]),
            held_out=row["held_out"],
            trained=row["trained"],
            status=status,
            seconds=float(row["seconds"] or 0),
            images=int(row["images"] or 0),
            bytes_down=int(row["bytes_down"] or 0),
            bytes_up=int(row["bytes_up"] or 0),
            error=row["error"],
        )
    except ValueError as error:
        raise unreadable(folder / "cells.csv", f"cell {row['cell']}: {error}") from error
