"""The table at the end of a run: what each site gets, on a narrow terminal, a wide one, or in a file."""

from itertools import groupby

from rich.table import Table
from rich.text import Text

from fedderm.cli.terminal import plain_table
from fedderm.report import SiteRow

WIDE = 100
"""Columns from which each row names its role; below, roles become headings between the rows."""

_LESIONS = "lesions\n(malignant)"
_AUC = "AUC\n[95 % CI]"
_FOUND = "malignant\nfound, %"
_SPARED = "benign\nspared, %"
_NEEDED = "lesions for\na guarantee"


def run_table(rows: list[SiteRow], width: int) -> Table:
    """Return the table for ``width`` columns of text: from 80 on, only long site names are folded.

    Percentages go from the federation's threshold to the site's own.
    """
    wide = width >= WIDE
    first = ("site", "role") if wide else ("site",)
    table = plain_table(*first, _LESIONS, _AUC, _FOUND, _SPARED, _NEEDED, folding="site")
    for role, members in groupby(rows, key=lambda row: row.role):
        if not wide:
            table.add_row(Text(f"{role}:", style="bold"))
        for row in members:
            names = (row.site, row.role) if wide else (row.site,)
            cells = (row.lesions, row.auc, row.sensitivity, row.specificity, row.certificate)
            table.add_row(*names, *cells)
        table.add_section()
    return table
