"""A comparison of arms: planned, run cell by cell, and told in tables and a page."""

from pathlib import Path

__all__ = ["build_comparison", "summary_lines"]


def build_comparison(folder: Path) -> Path:
    """Return the path of ``folder/compare.html``, written with ``folder/results/`` from the cells alone.

    Raises ValueError, and writes nothing, where no cell is done or a file of a finished one is damaged.
    """
    from fedderm.comparison.outcomes import read_comparison
    from fedderm.comparison.results import results_of
    from fedderm.comparison.tables import write_tables
    from fedderm.report.comparison_page import write_page

    results = results_of(read_comparison(folder))
    write_tables(results)
    return write_page(results)


def summary_lines(folder: Path) -> list[str]:
    """Return what can and cannot be concluded, one sentence an item, as ``build_comparison`` wrote it.

    Raises OSError before that.
    """
    return (folder / "results" / "conclusions.txt").read_text(encoding="utf-8").splitlines()
