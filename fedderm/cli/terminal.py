"""Where results are printed: wrapped to a terminal's width, or whole lines where a program reads them."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

UNLIMITED = 10_000
"""Columns of a file or pipe: a row stays on one line, however narrow some terminal is."""


def output() -> Console:
    """Return standard output; square brackets in texts are texts."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=UNLIMITED)
    return console


def errors() -> Console:
    """Return standard error, for progress beside an output that a program reads."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def plain_table(*headings: str, folding: str = "", numbers: tuple[str, ...] = ()) -> Table:
    """Return a table without vertical lines; only the column ``folding`` gives way on a narrow terminal."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False, header_style="bold")
    for heading in headings:
        folds = heading == folding
        table.add_column(
            heading,
            overflow="fold",
            no_wrap=not folds,
            min_width=8 if folds else None,
            justify="right" if heading in numbers else "left",
        )
    return table
