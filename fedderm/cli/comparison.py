"""What ``fedderm compare`` does, from config to the table at the end."""

import shlex
import shutil
from collections.abc import Sequence
from math import prod
from pathlib import Path

from fedderm import config
from fedderm.cli.comparison_console import ComparisonConsole
from fedderm.cli.stopping import stop_is_ctrl_c
from fedderm.comparison import build_comparison
from fedderm.comparison.cell_row import CellRow
from fedderm.comparison.folder import ComparisonFolder
from fedderm.comparison.folds import section_of
from fedderm.comparison.plan import cells_of
from fedderm.comparison.running import run_comparison
from fedderm.report.formats import plural
from fedderm.runtime import require_gpus
from strategies.errors import Interrupted


def start(
    path: Path | None,
    data_root: Path | None,
    overrides: list[str],
    resume: Path | None,
    console: ComparisonConsole,
) -> None:
    """Run a comparison, or go on with one; write its page and print its table.

    Raises ValueError where cells have failed: the page then tells the others.
    """
    if resume:
        folder = _resumed(path, data_root, overrides, resume)
    else:
        folder = _fresh(path, data_root, overrides, console)
    console.show(f"comparison: {folder.path}")
    with folder.alone():
        rows = _run(folder, console, fresh=resume is None)
        if any(row.status == "done" for row in rows):
            page = build_comparison(folder.path)
            console.results(folder.path)
            console.show(f"page: {page}")
    _tell_failures(rows, folder)


def _run(folder: ComparisonFolder, console: ComparisonConsole, *, fresh: bool) -> list[CellRow]:
    try:
        with stop_is_ctrl_c(), console:
            console.folder = folder
            return run_comparison(folder, console)
    except (Interrupted, KeyboardInterrupt) as error:
        kept = "interrupted; finished cells are kept, others go on after their last round"
        raise Interrupted(f"{kept}; go on with: {_resume(folder)}") from error
    except (ValueError, OSError):
        if fresh and not (folder.path / "cells").is_dir():
            # The sites could not even be loaded: there is nothing to go on with.
            shutil.rmtree(folder.path, ignore_errors=True)
        else:
            console.show(f"go on with: {_resume(folder)}")
        raise


def _tell_failures(rows: Sequence[CellRow], folder: ComparisonFolder) -> None:
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(rows)} cells failed, the first of them {failed[0].cell}: "
            f"{failed[0].error}; try them again with: {_resume(folder)}"
        )


def _resume(folder: ComparisonFolder) -> str:
    return f"fedderm compare --resume {shlex.quote(str(folder.path))}"


def _fresh(
    path: Path | None, data_root: Path | None, overrides: list[str], console: ComparisonConsole
) -> ComparisonFolder:
    if path is None:
        raise ValueError(
            "give a config with a section compare, such as configs/compare_demo.yaml, or --resume with a "
            "comparison's folder"
        )
    experiment = config.load(path, overrides, data_root)
    where = " ".join([str(path), *(f"--set {shlex.quote(one)}" for one in overrides)])
    try:
        section = section_of(experiment)
        arms = len(section.arms) * prod(len(values) for values in section.grid.values())
        console.show(f"checking {plural(arms, 'arm')} with {plural(len(section.seeds), 'seed')}")
        cells_of(experiment)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    require_gpus(experiment.resources)
    return ComparisonFolder.create(experiment)


def _resumed(
    path: Path | None, data_root: Path | None, overrides: list[str], resume: Path
) -> ComparisonFolder:
    if path is not None or overrides:
        raise ValueError(
            "--resume goes on with the comparison's own config; leave out the config and --set, or start anew"
        )
    return ComparisonFolder.open(resume, data_root)
