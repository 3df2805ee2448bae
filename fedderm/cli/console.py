"""What a person sees while a run goes on: one line a site, a bar a stage, one line a finished round."""

from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from fedderm.evaluation.long_format import POOLED, LongRow
from strategies.exchange import Event


class Console:
    """Shows progress by round and site, on a terminal as bars and elsewhere as lines."""

    def __init__(self) -> None:
        self._console = RichConsole(highlight=False, soft_wrap=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[waiting]}"),
            console=self._console,
            transient=True,
        )
        self._task: int | None = None
        self._title = ""
        self._waiting: list[str] = []

    def __enter__(self) -> Self:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        self._progress.stop()

    def say(self, sentence: str) -> None:
        """Print a line."""
        self._console.print(sentence, markup=False)

    def warn(self, sentence: str) -> None:
        """Print a warning."""
        self._console.print(f"warning: {sentence}", style="yellow", markup=False)

    def progress(self, title: str, done: int, total: int) -> None:
        """Show how far a preparation is."""
        self._show(title, done, total, [])

    def stage(self, title: str, sites: Sequence[str]) -> None:
        """Show that sites are being asked."""
        self._waiting = list(sites)
        self._show(title, 0, len(sites), self._waiting)

    def site(self, event: Event) -> None:
        """Show that a site has answered."""
        if event.kind in ("arrived", "failed") and event.member.name in self._waiting:
            self._waiting.remove(event.member.name)
        if event.kind == "resent":
            self.warn(f"site {event.member.name}: its worker died; asked again")
        if self._task is not None:
            task = self._progress.tasks[-1]
            self._show(
                self._title, int(task.total or 0) - len(self._waiting), int(task.total or 0), self._waiting
            )

    def round_done(self, number: int, rounds: int, rows: Sequence[LongRow]) -> None:
        """Print a finished round's pooled AUCs."""
        values = [
            f"{row['role']} AUC {row['value']:.3f}"
            for row in rows
            if row["site"] == POOLED
            and row["metric"] == "auc"
            and row["unit"] == "image"
            and row["value"] is not None
        ]
        self.say(f"round {number}/{rounds}  {'  '.join(values)}")

    def site_table(self, run: Path) -> None:
        """Print the finished run's table and its summary."""
        from fedderm.report import SiteRow, site_table, summary_sentences

        rows = site_table(run)
        table = Table(show_edge=False, pad_edge=False)
        for heading in fields(SiteRow):
            table.add_column(heading.name, overflow="fold")
        for row in rows:
            table.add_row(*astuple(row))
        self._console.print(table)
        for sentence in summary_sentences(run):
            self.say(sentence)

    def _show(self, title: str, done: int, total: int, waiting: Sequence[str]) -> None:
        named = ", ".join(waiting[:4]) + (f" and {len(waiting) - 4} more" if len(waiting) > 4 else "")
        if self._task is None or title != self._title:
            if self._task is not None:
                self._progress.remove_task(self._progress.task_ids[-1])
            self._title = title
            self._task = self._progress.add_task(title, total=total, waiting=named)
        self._progress.update(self._progress.task_ids[-1], completed=done, total=total, waiting=named)
