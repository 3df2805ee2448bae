"""An observer of a run that says nothing: what is printed is the measurement."""

from collections.abc import Sequence

from fedderm.evaluation.long_format import LongRow
from strategies.exchange import Event


class Quiet:
    """Someone who is told how a run and its preparation go on, and does not tell."""

    def stage(self, title: str, sites: Sequence[str]) -> None:
        """Keep quiet."""

    def site(self, event: Event) -> None:
        """Keep quiet."""

    def round_done(self, number: int, rounds: int, rows: Sequence[LongRow]) -> None:
        """Keep quiet."""

    def warn(self, sentence: str) -> None:
        """Keep quiet."""

    def say(self, sentence: str) -> None:
        """Keep quiet."""

    def progress(self, title: str, done: int, total: int) -> None:
        """Keep quiet."""
