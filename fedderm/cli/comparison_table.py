"""The table at the end of a comparison: each arm's AUC over the sites of each role, from its tables."""

from pathlib import Path

import pandas as pd
from rich.table import Table

from fedderm.cli.terminal import plain_table
from fedderm.report.formats import decimal

WIDE = 120
"""Columns from which a value and its interval stand on one line."""

Place = tuple[str, str]
"""(site, role); a site may be the mean or the worst of a role."""


def comparison_table(folder: Path, width: int) -> Table:
    """Return the table of a comparison that ``build_comparison`` has told; raises OSError before that.

    Global models' mean AUC over seeds with its 95 % interval, on average over a role's sites and at the worst
    one (a single site by itself); ``*`` marks what differs from the reference after Holm, with the seeds that
    a claim needs.
    """
    from fedderm.comparison.conclusions import LEVEL
    from fedderm.comparison.scope import CLAIM_SEEDS

    summary, differences = (_auc(folder / "results" / f"{name}.csv") for name in ("summary", "differences"))
    places = _places(summary)
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
            cells.append("-" if numbers is None else _told(*numbers, mark, " " if width >= WIDE else "\n"))
        table.add_row(f"{arm} (reference)" if arm in references else arm, *cells)
    return table


def _places(summary: pd.DataFrame) -> list[Place]:
    """Mean and worst of each role; its sites where there are none."""
    listed = list(dict.fromkeys(zip(summary["site"], summary["role"], strict=True)))
    found: list[Place] = []
    for role in dict.fromkeys(role for _, role in listed):
        sites = [place for place in listed if place[1] == role]
        found += [place for place in sites if place[0].startswith("(")] or sites
    return found


def _auc(path: Path) -> pd.DataFrame:
    if not path.is_file():  # a comparison of one arm has no differences
        return pd.DataFrame(columns=["arm", "site", "role", "reference", "p_holm", "seeds"])
    # A site may be called NA: only empty fields of numbers are missing values.
    texts = dict.fromkeys(("arm", "site", "role", "model", "metric", "reference"), str)
    missing = {name: [""] for name in ("mean", "lower", "upper", "p_holm")}
    table = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=missing)
    return table[(table["metric"] == "auc") & (table["model"] == "global")]


def _head(site: str, role: str) -> str:
    words = "held-out" if role == "held-out" else "training"
    return {"(mean)": f"{words} sites,\nmean", "(worst)": f"{words} sites,\nworst"}.get(site, site)


def _told(value: float, lower: float, upper: float, mark: str, between: str) -> str:
    interval = "" if pd.isna(lower) else f"{between}[{decimal(lower, 2)}, {decimal(upper, 2)}]"
    return f"{decimal(value)}{mark}{interval}"
