"""``rounds/metrics.csv``: what every site was worth after each round, in the long format."""

import csv
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pandas as pd

from fedderm.evaluation.long_format import COLUMNS, LongRow
from fedderm.evaluation_files import csv_of, table_csv
from fedderm.run_state import damaged
from fedderm.whole_file import whole, write_whole

METRICS: Final = "metrics.csv"
_BLOCK: Final = 1 << 16


def append_metrics(path: Path, number: int, rows: Iterable[LongRow]) -> None:
    """Add a round's rows in one step; those of a round that was written but never finished are replaced.

    Raises ValueError where what is there is damaged.
    """
    rows = list(rows)
    if not path.is_file() or _last_round(path) >= number:
        header, _, body = csv_of(rows).partition("\n")
        write_whole(path, (metrics_before(path, number) or f"{header}\n") + body)
    elif rows:  # what is there is copied, not read: it grows with every round and site
        with whole(path) as temporary:
            shutil.copyfile(path, temporary)
            with temporary.open("a", encoding="utf-8", newline="") as file:
                file.write(csv_of(rows).partition("\n")[2])


def metrics_before(path: Path, number: int) -> str:
    """Return the table of the rounds before ``number`` as it was written; empty where there is none.

    Raises ValueError where it is damaged.
    """
    if not path.is_file():
        return ""
    try:
        # As texts: a site may be called 007 or NA, and a number keeps its digits.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return table_csv(table[table["round"].astype(int) < number])
    except (ValueError, KeyError) as error:
        raise damaged(path, " ".join(str(error).split())) from error


def rows_after(path: Path, number: int) -> list[dict[str, str]]:
    """Return the rows of the rounds after ``number``, as the texts that stand in the file; none without one.

    Rounds follow each other in it, and it grows with every one of them: it is read from its end, as far as is
    needed. Raises ValueError where it is damaged.
    """
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        names = next(csv.reader([file.readline()]), [])
    found: list[dict[str, str]] = []
    for line in _from_the_end(path):
        row = next(csv.reader([line]))
        if row == names:
            break
        try:
            told = dict(zip(names, row, strict=True))
            if int(told["round"]) <= number:
                break
        except (ValueError, KeyError) as error:
            raise damaged(path, f"it has the line {line[:60]!r}") from error
        found.append(told)
    return found[::-1]


def _last_round(path: Path) -> float:
    """Return the round of the table's last row, 0 of an empty table; infinity where it does not end in a
    row.
    """
    last = next(_from_the_end(path), "")
    row = next(csv.reader([last]), [])
    if row == list(COLUMNS):
        return 0
    try:
        whole_row = len(row) == len(COLUMNS) and _ends_in_newline(path)
        return int(row[COLUMNS.index("round")]) if whole_row else float("inf")
    except ValueError:
        return float("inf")


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _from_the_end(path: Path) -> Iterator[str]:
    """Yield a file's lines that are not empty, the last first."""
    with path.open("rb") as file:
        rest, place = b"", file.seek(0, os.SEEK_END)
        while place > 0:
            start = max(0, place - _BLOCK)
            file.seek(start)
            rest, *lines = (file.read(place - start) + rest).split(b"\n")
            place = start
            yield from (line.decode("utf-8", errors="replace") for line in reversed(lines) if line)
        if rest:
            yield rest.decode("utf-8", errors="replace")
