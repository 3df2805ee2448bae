"""What a person sees while a comparison goes on: one bar over all cells, and a line for each that ends."""

import time
from collections.abc import Sequence
from pathlib import Path

from fedderm.cli.console import MOST_NAMED, Console
from fedderm.comparison.folder import ComparisonFolder
from fedderm.comparison.plan import Cell

_ROLES = {"held-out": "held-out", "train": "training"}


class ComparisonConsole(Console):
    """Shows how many cells are done, what runs now, and how long the rest will take."""

    def __init__(self) -> None:
        super().__init__()
        self.folder: ComparisonFolder | None = None
        self._total = 0
        self._ended = 0
        self._kept = 0
        self._running: dict[str, tuple[int, int]] = {}
        """Cell to (finished rounds, all rounds)."""
        self._since: dict[str, float] = {}
        self._begun: float | None = None

    def planned(self, cells: Sequence[Cell], done: Sequence[Cell]) -> None:
        """Print how many cells there are."""
        self._total, self._ended, self._kept = len(cells), len(done), len(done)
        kept = f"; {len(done)} are finished and kept" if done else ""
        self.say(f"{len(cells)} cells{kept}")

    def cell_started(self, cell: Cell) -> None:
        """Show that a cell is being run."""
        self._begin("cells", self._total, f"run cells ({self._total - self._ended})")
        now = time.monotonic()
        self._begun = self._begun or now
        self._since[cell.id] = now
        self._running[cell.id] = (0, cell.experiment.rounds)
        self._draw()

    def cell_round(self, cell: Cell, number: int, rounds: int) -> None:
        """Show a finished round."""
        self._running[cell.id] = (number, rounds)
        self._draw()

    def cell_ended(self, cell: Cell, error: str) -> None:
        """Print a line about a cell that is done or has failed."""
        self._running.pop(cell.id, None)
        self._ended += 1
        seconds = time.monotonic() - self._since.pop(cell.id, time.monotonic())
        place = f"[{self._ended}/{self._total}] {cell.id}"
        if error:
            self.warn(f"{place} failed: {error}")
        else:
            self.say(f"{place} done in {_duration(seconds)}{self._aucs(cell)}")
        self._draw()

    def results(self, folder: Path) -> None:
        """Print the table of a comparison whose page has been written, and what can be concluded."""
        from fedderm.cli.comparison_table import comparison_table
        from fedderm.comparison import summary_lines

        self.show("")
        self._console.print(comparison_table(folder, self._console.width))
        self.say("AUC by lesion, mean over seeds [95 %]; * differs from the reference after Holm.")
        self.show("")
        for sentence in summary_lines(folder):
            self.say(sentence)

    def _aucs(self, cell: Cell) -> str:
        if self.folder is None:
            return ""
        found = self.folder.aucs(cell)
        told = [f"{name} AUC {found[role]:.3f}" for role, name in _ROLES.items() if found[role] is not None]
        return f": {', '.join(told)}" if told else ""

    def _draw(self) -> None:
        part = sum(done / rounds for done, rounds in self._running.values())
        named = [f"{cell} {done}/{rounds}" for cell, (done, rounds) in self._running.items()]
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        self._update(
            self._ended + part, self._total, f"{', '.join(named[:MOST_NAMED])}{more}{self._left(part)}"
        )

    def _left(self, part: float) -> str:
        """Return how long the rest will take at the pace so far."""
        done = self._ended - self._kept + part
        if self._begun is None or done <= 0:
            return ""
        rest = (self._total - self._ended - part) * (time.monotonic() - self._begun) / done
        return f"; about {_duration(rest)} left" if rest >= 1 else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
