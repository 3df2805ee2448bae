"""What a person sees while a run goes on: bars on a terminal; in a file or a CI log, one line a stage."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

from fedderm.cli.terminal import output
from fedderm.evaluation.long_format import POOLED, LongRow
from strategies.exchange import Event

MOST_NAMED = 3
"""Sites that are named as still at work; more are counted."""


class Console:
    """Shows progress by round and site: a bar for what is being done, and which sites are still at it."""

    def __init__(self, console: RichConsole | None = None) -> None:
        self._console = console or output()
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[waiting]}", style="dim", table_column=Column(no_wrap=True, ratio=1)),
            console=self._console,
            transient=True,
            expand=True,
            disable=not self._console.is_terminal,
        )
        self._stage: TaskID | None = None
        self._title = ""
        self._told: set[str] = set()
        self._asked = 0
        self._waiting: list[str] = []

    def __enter__(self) -> Self:
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing; the bars vanish, lines stay."""
        self._bars.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence, wrapped between words."""
        self._console.print(sentence)

    def show(self, line: str) -> None:
        """Print a line as it is, however long: something to be copied, such as a path."""
        self._console.print(line, soft_wrap=True)

    def warn(self, sentence: str) -> None:
        """Print a warning."""
        self._console.print(f"warning: {sentence}", style="yellow")

    def progress(self, title: str, done: int, total: int) -> None:
        """Show how far a preparation is."""
        self._begin(title, total, f"{title} ({total})")
        self._update(done, total, "")

    def stage(self, title: str, sites: Sequence[str]) -> None:
        """Show that sites are being asked."""
        self._waiting, self._asked = list(sites), len(sites)
        self._begin(title, len(sites), f"{title} at {', '.join(sites)}")
        self._update(0, len(sites), self._at_work())

    def site(self, event: Event) -> None:
        """Show that a site has answered."""
        if event.kind in ("arrived", "failed") and event.member.name in self._waiting:
            self._waiting.remove(event.member.name)
        if event.kind == "resent":
            self.warn(f"site {event.member.name}: its worker died; asked again")
        self._update(self._asked - len(self._waiting), self._asked, self._at_work())

    def round_done(self, number: int, rounds: int, rows: Sequence[LongRow]) -> None:
        """Print a finished round's AUCs, pooled over a role's sites."""
        values = [
            f"{row['role']} {row['value']:.3f}"
            for row in rows
            if row["site"] == POOLED
            and row["metric"] == "auc"
            and row["unit"] == "lesion"
            and row["value"] is not None
        ]
        told = f"  AUC of test splits, by lesion: {', '.join(values)}" if values else ""
        self.say(f"round {number}/{rounds} done{told}")

    def site_table(self, run: Path) -> None:
        """Print the finished run's table and its summary."""
        from fedderm.cli.run_table import run_table
        from fedderm.report import site_table, summary_sentences

        self.show("")
        self._console.print(run_table(site_table(run), self._console.width))
        self.say("Percentages go from the federation's threshold to the site's own.")
        self.show("")
        for sentence in summary_sentences(run):
            self.say(sentence)

    def _begin(self, title: str, total: int, line: str) -> None:
        """Start a stage's bar; where there are no bars, print its line."""
        if title == self._title:
            return
        self._title = title
        if not self._console.is_terminal and title not in self._told:
            self.say(line)
        self._told.add(title)
        if self._stage is not None:
            self._bars.remove_task(self._stage)
        self._stage = self._bars.add_task(title, total=total, waiting="")

    def _update(self, done: float, total: int, waiting: str) -> None:
        if self._stage is not None:
            self._bars.update(self._stage, completed=done, total=total, waiting=waiting)

    def _at_work(self) -> str:
        more = len(self._waiting) - MOST_NAMED
        named = ", ".join(self._waiting[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"waiting for {named}" if named else ""
