"""A line of ``cells.csv``: how a cell of a comparison ended, as it is written and as it is read."""

from dataclasses import dataclass, fields
from typing import Final, Literal

Status = Literal["done", "failed", "waiting"]


@dataclass(frozen=True)
class CellRow:
    """A line of ``cells.csv``."""

    cell: str
    arm: str
    seed: int
    held_out: str
    """The site of the fold; empty without folds."""
    trained: str
    """The site that trained alone; empty but for a local baseline."""
    status: Status
    seconds: float
    """Of all sittings that ended in order."""
    images: int
    """Image updates: images that passed through training, all sites and rounds."""
    bytes_down: int
    bytes_up: int
    error: str


COLUMNS: Final = tuple(field.name for field in fields(CellRow))
"""The columns of ``cells.csv``, in their order."""
