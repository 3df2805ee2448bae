"""``rounds/metrics.csv``: what every site was worth after each round, in the long format."""

import csv
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pandas as pd

from fedderm.evaluation.long_format import COLUMNS, LongRow
from fedderm.evaluation_files import csv_of, table_csv
from fedderm.run_state import damaged
from fedderm.whole_file import whole, write_whole

METRICS: Final = "metrics.csv"
_LONGEST_LINE: Final = 4096


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


def _last_round(path: Path) -> float:
    """Return the round of the table's last row, 0 of an empty table, infinity where the row is none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_LINE), os.SEEK_SET)
        last = file.read().decode("utf-8", errors="replace").splitlines()[-1:]
    row = next(csv.reader(last), [])
    if row == list(COLUMNS):
        return 0
    try:
        return int(row[COLUMNS.index("round")]) if len(row) == len(COLUMNS) else float("inf")
    except ValueError:
        return float("inf")
