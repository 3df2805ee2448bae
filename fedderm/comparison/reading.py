"""Files of a comparison's folder, read; one that cannot be is named in a sentence that says what to do."""

import json
import shlex
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

CELLS: Final = "cells.csv"


def unreadable(path: Path, found: Exception | str) -> ValueError:
    """Return the error about a file that is missing or damaged: what was found, and what mends it."""
    return ValueError(f"{path} cannot be read ({_told(found)}); {_remedy(path)}.")


def _told(found: Exception | str) -> str:
    # An OSError's own text has a number and the path once more.
    text = found.strerror if isinstance(found, OSError) and found.strerror else str(found)
    return " ".join(text.split())


def _remedy(path: Path) -> str:
    if path.name == CELLS:
        return f"`fedderm compare --resume {shlex.quote(str(path.parent))}` writes it again"
    if "cells" not in path.parts:
        return "copy the comparison's folder again"
    return (
        "copy the comparison's folder again, or remove the cell's folder and go on with "
        "`fedderm compare --resume`"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; raises ValueError where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not isinstance(found, dict):
        raise unreadable(path, f"expected an object, found {type(found).__name__}")
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's keys and values; raises ValueError where it is missing or damaged."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise unreadable(path, error) from error
    if not isinstance(found, dict):
        raise unreadable(path, f"expected keys and values, found {type(found).__name__}")
    return found


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return a CSV file as texts, for a site may be called 007 or NA; raises ValueError where it is missing,
    damaged or without one of ``columns``."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise unreadable(path, f"no column {', '.join(absent)}")
    return table
