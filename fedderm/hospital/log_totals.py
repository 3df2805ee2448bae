"""The log of what left, added up by day and by run, for people."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedderm.hospital.memory import SHOWN


@dataclass
class Total:
    """What left in a day or a run, and what did not."""

    title: str
    first: str
    last: str
    sent: dict[str, int] = field(default_factory=dict)
    """Answers by exchange."""
    bytes: int = 0
    refused: int = 0
    failed: int = 0

    def add(self, entry: Mapping[str, Any]) -> None:
        """Count one entry."""
        self.last = entry["time"]
        if entry["what"] == "sent":
            self.sent[entry["exchange"]] = self.sent.get(entry["exchange"], 0) + 1
            self.bytes += entry["bytes"]
        self.refused += entry["what"] == "refused"
        self.failed += entry["what"] == "failed"

    def answers(self) -> str:
        """Return ``train 3, evaluate 4``; a dash where nothing was answered."""
        return ", ".join(f"{kind} {count}" for kind, count in self.sent.items()) or "-"


@dataclass(frozen=True)
class Totals:
    """A whole log, added up."""

    days: list[Total]
    """By UTC date, the oldest first."""
    runs: list[Total]
    """By Flower run, in the order in which they first asked; what names no experiment is not among them."""
    told: list[str]
    """What the server was told in place of answers, each sentence once, with its number and last time; in
    brackets what it was not told: why the site could not answer."""


def totals(entries: Iterable[Mapping[str, Any]]) -> Totals:
    """Return a log's totals. Raises KeyError for an entry that this version of fedderm did not write."""
    days: dict[str, Total] = {}
    runs: dict[str, Total] = {}
    told: dict[str, tuple[int, str]] = {}
    for entry in entries:
        day, run = entry["time"][:10], entry.get("run")
        _of(days, day, entry).add(entry)
        if run is not None and entry.get("request"):
            name = f"{entry['experiment']} {entry['request'][:SHOWN]} (Flower run {run})"
            _of(runs, name, entry).add(entry)
        if "told" in entry:
            said = entry["told"] + (f" ({entry['detail']})" if "detail" in entry else "")
            told[said] = (told.get(said, (0, ""))[0] + 1, entry["time"])
    sentences = [f"{count} x, last {_short(time)}: {said}" for said, (count, time) in told.items()]
    return Totals(list(days.values()), list(runs.values()), sentences)


def _of(found: dict[str, Total], title: str, entry: Mapping[str, Any]) -> Total:
    return found.setdefault(title, Total(title, entry["time"], entry["time"]))


def _short(time: str) -> str:
    return time[:16].replace("T", " ")


def in_bytes(count: int) -> str:
    """Return 999 B, 1.2 kB, 3.4 MB or 5.6 GB."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
