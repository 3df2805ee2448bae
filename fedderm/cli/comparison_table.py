"""The table at the end of a comparison: AUC of every arm at every site, from the comparison's tables."""

from pathlib import Path

import pandas as pd
from rich.table import Table

from fedderm.cli.terminal import plain_table
from fedderm.report.formats import decimal


def comparison_table(folder: Path) -> Table:
    """Return the table of a comparison that ``build_comparison`` has told; raises OSError before that.

    Global models' mean AUC over seeds with its 95 % interval; ``*`` behind what differs from the reference
    after Holm, with the seeds that a claim needs.
    """
    from fedderm.comparison.conclusions import CLAIM_SEEDS, LEVEL

    summary, differences = (_auc(folder / "results" / f"{name}.csv") for name in ("summary", "differences"))
    places = list(dict.fromkeys(zip(summary["site"], summary["role"], strict=True)))
    table = plain_table("arm", *(_head(*place) for place in places), folding="arm")
    claimed = {
        (row["arm"], row["site"], row["role"])
        for row in differences.to_dict("records")
        if row["p_holm"] < LEVEL and row["seeds"] >= CLAIM_SEEDS
    }
    means = {
        (row["arm"], row["site"], row["role"]): (row["mean"], row["lower"], row["upper"])
        for row in summary.to_dict("records")
    }
    references = set(differences["reference"])
    for arm in sorted(dict.fromkeys(summary["arm"]), key=lambda name: name not in references):
        cells = []
        for place in places:
            numbers = means.get((arm, *place))
            mark = "*" if (arm, *place) in claimed else ""
            cells.append("-" if numbers is None else f"{_told(*numbers)}{mark}")
        table.add_row(f"{arm} (reference)" if arm in references else arm, *cells)
    return table


def _auc(path: Path) -> pd.DataFrame:
    texts = dict.fromkeys(("arm", "site", "role", "model", "metric", "reference"), str)
    if not path.is_file():  # a comparison of one arm has no differences
        return pd.DataFrame(columns=[*texts, "p_holm", "seeds"])
    # A site may be called NA: only empty fields of numbers are missing values.
    missing = dict.fromkeys(("mean", "lower", "upper", "p_holm"), [""])
    table = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=missing)
    return table[(table["metric"] == "auc") & (table["model"] == "global")]


def _head(site: str, role: str) -> str:
    return f"{site}\n{role}" if site.startswith("(") else site


def _told(value: float, lower: float, upper: float) -> str:
    return (
        decimal(value) if pd.isna(lower) else f"{decimal(value)} [{decimal(lower, 2)}, {decimal(upper, 2)}]"
    )
