"""What a benchmark finds, one row a claim: limit, fedderm, plain Flower, target, and whether it is met."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.systems.measured import Unequal
from benchmarks.systems.running import Failed


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row of the table; None where there is nothing to measure, or it was not measured."""

    what: str
    unit: str
    ours: float
    limit: float | None = None
    flower: float | None = None
    target: float
    """The largest value of what is judged that meets the claim; the smallest with ``at_least``."""
    judged: str = "value"
    """``value``: fedderm's own; ``ratio``: to the limit."""
    at_least: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Return fedderm's value over the limit's."""
        return None if not self.limit else self.ours / self.limit

    @property
    def met(self) -> bool:
        """Return whether the target is met; a ratio without a limit meets nothing."""
        found = self.ours if self.judged == "value" else self.ratio
        if found is None:
            return False
        return found >= self.target if self.at_least else found <= self.target

    def cells(self) -> list[str]:
        """Return the row's cells; the ratio's tells Flower's beside fedderm's."""
        ratios = [shown(self.ratio, "x")]
        if self.limit and self.flower is not None:
            ratios.append(f"Flower {self.flower / self.limit:.2f}x")
        sign = ">=" if self.at_least else "<="
        return [
            self.what,
            *(shown(one, self.unit) for one in (self.limit, self.ours, self.flower)),
            ", ".join(ratios),
            f"{sign} {shown(self.target, self.unit if self.judged == 'value' else 'x')}",
            "yes" if self.met else "NO",
        ]


HEADER = ("what", "limit", "fedderm", "plain Flower", "ratio to the limit", "target", "met")


def shown(value: float | None, unit: str) -> str:
    """Return a number with three digits and its unit, a dash for None."""
    if value is None:
        return "-"
    digits = f"{value:.2f}" if unit == "x" else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return digits + unit if unit == "x" else f"{digits} {unit}".rstrip()


def table(claims: Sequence[Claim]) -> str:
    """Return the claims as a Markdown table, notes below it."""
    rows = [list(HEADER), *(one.cells() for one in claims)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    notes = [f"- {one.what}: {one.note}" for one in claims if one.note]
    return "\n".join(lines + (["", *notes] if notes else []))


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--quick", action="store_true", help="sizes that show only that it runs")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the claims there too")
    found.add_argument("--workers", type=int, help="worker processes of every system (default: the cores)")
    return found


def report(claims: Sequence[Claim], asked: argparse.Namespace) -> None:
    """Print the table, and write it as JSON where that was asked for."""
    print(table(claims), flush=True)
    if asked.json is not None:
        save(asked.json, claims)


def save(path: Path, claims: Sequence[Claim], **more: Any) -> None:
    """Write claims as JSON, with what follows from them."""
    rows = [{**asdict(one), "ratio": one.ratio, "met": one.met} for one in claims]
    path.write_text(json.dumps({**more, "claims": rows}, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Claim]:
    """Return the claims that ``save`` wrote."""
    rows = json.loads(path.read_text(encoding="utf-8"))["claims"]
    return [
        Claim(**{key: value for key, value in row.items() if key not in ("ratio", "met")}) for row in rows
    ]


def told(main: Callable[[], None]) -> None:
    """Call ``main``; what cannot be measured or compared ends in its sentence and exit code 1."""
    try:
        main()
    except (Failed, Unequal, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
