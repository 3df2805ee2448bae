"""What an arm costs and how it converges: image updates, seconds, bytes, and AUC by round and by byte."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from fedderm.comparison.outcomes import Cell, Comparison
from fedderm.evaluation.long_format import POOLED


@dataclass(frozen=True)
class ArmCost:
    """Means over an arm's finished cells: of one model."""

    arm: str
    cells: int
    images: float
    """Image updates: images that passed through training, all sites and rounds."""
    seconds: float
    bytes_down: float
    """From the server to all sites and back, all exchanges; 0 for a baseline, which exchanges nothing."""
    bytes_up: float


@dataclass(frozen=True)
class Curve:
    """Pooled AUC of an arm by round, over its seeds."""

    arm: str
    role: str
    points: pd.DataFrame
    """``round, mean, lowest, highest, seeds, bytes_down, bytes_up``: bytes of training to the round's end."""
    exchanges: bool
    """Whether sites and server exchange models: a baseline has no place on an axis of bytes."""


def costs_of(comparison: Comparison) -> list[ArmCost]:
    """Return the arms' costs, in the config's order; arms without a finished cell are left out."""
    found = []
    for arm in dict.fromkeys(cell.arm for cell in comparison.done):
        cells = list(comparison.cells_of(arm))
        down, up = _mean([c.bytes_down for c in cells]), _mean([c.bytes_up for c in cells])
        exchanges = not _baseline(cells[0])
        found.append(
            ArmCost(
                arm,
                len(cells),
                _mean([c.images for c in cells]),
                _mean([c.seconds for c in cells]),
                down if exchanges else 0.0,
                up if exchanges else 0.0,
            )
        )
    return found


def curves_of(comparison: Comparison) -> list[Curve]:
    """Return pooled AUC by round: lesions of the test splits of a role's sites together.

    A seed's value is the mean over its folds, where there are any. Local arms have no curve: they are a model
    for each site.
    """
    return [curve for arm in comparison.arms for curve in _curves(arm, list(comparison.cells_of(arm)))]


def _curves(arm: str, cells: list[Cell]) -> Iterator[Curve]:
    if not cells:
        return
    table = pd.concat([_of_cell(cell) for cell in cells], ignore_index=True)
    for role in ("held-out", "train"):
        by_seed = (
            table[table["role"] == role]
            .groupby(["seed", "round"], as_index=False)[["value", "down", "up"]]
            .mean()
        )
        if by_seed.empty:
            continue
        by_round = by_seed.groupby("round")
        points = by_round.agg(
            mean=("value", "mean"),
            lowest=("value", "min"),
            highest=("value", "max"),
            seeds=("value", "size"),
            bytes_down=("down", "mean"),
            bytes_up=("up", "mean"),
        ).reset_index()
        yield Curve(arm, role, points, not _baseline(cells[0]))


def _of_cell(cell: Cell) -> pd.DataFrame:
    rows = cell.rounds
    rows = rows[(rows["site"] == POOLED) & (rows["metric"] == "auc") & (rows["split"] == "test")]
    unit = "lesion" if (rows["unit"] == "lesion").any() else "image"
    rows = rows[(rows["unit"] == unit) & (rows["value"] != "")]
    table = pd.DataFrame(
        {
            "seed": cell.seed,
            "role": rows["role"],
            "round": rows["round"].astype(int),
            "value": rows["value"].astype(float),
        }
    )
    traffic = cell.traffic()
    for column, way in (("down", 0), ("up", 1)):
        table[column] = [float(traffic[n][way]) if n in traffic else float("nan") for n in table["round"]]
    return table


def _baseline(cell: Cell) -> bool:
    return str(cell.config.get("baseline") or "none") != "none"


def _mean(values: list[int] | list[float]) -> float:
    return sum(values) / len(values)
