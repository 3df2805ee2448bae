"""Do certified thresholds keep their promise, and what do they cost? A table of methods and scenarios.

    python -m benchmarks.guarantees --sites 4000

Exits with 1 where a method does not do what is expected of it.
"""

import argparse
import sys
from collections.abc import Iterable
from itertools import product
from typing import Final

from scipy.stats import binomtest

from benchmarks.guarantee_sites import Method, Row, Scenario, simulate

LOCAL: Final[tuple[Method, ...]] = ("site", "informed")
OFFERED: Final[tuple[Method, ...]] = ("site", "informed", "npv", "referral")

SCENARIOS: Final = (
    Scenario(name="independent lesions", methods=("federation", *OFFERED), breaks=("federation",)),
    Scenario(name="28 malignant lesions", positives=28, methods=LOCAL),
    Scenario(name="12 malignant lesions", positives=12, methods=LOCAL),
    Scenario(name="no malignant lesion", positives=0, methods=LOCAL),
    Scenario(name="two training sites", training_sites=2, positives=28, methods=("informed",)),
    Scenario(
        name="three images a lesion",
        images=3,
        methods=("site", "site, images as lesions"),
        breaks=("site, images as lesions",),
    ),
    Scenario(
        name="patients with four lesions", positives=46, per_patient=4, methods=("site",), breaks=("site",)
    ),
    Scenario(
        name="patients with four lesions, 12 malignant", positives=12, per_patient=4, methods=("informed",)
    ),
    Scenario(
        name="prevalence 0.2, then 0.4",
        prevalence_later=0.4,
        methods=OFFERED,
        breaks=("npv", "referral"),
    ),
    Scenario(name="prevalence 0.2, then 0.1", prevalence_later=0.1, methods=OFFERED),
    Scenario(
        name="scores fall by 0.5 after calibration",
        shift_later=-0.5,
        methods=OFFERED,
        breaks=("site", "informed", "npv"),
    ),
    Scenario(
        name="scores rise by 0.5 after calibration",
        shift_later=0.5,
        methods=OFFERED,
        breaks=("referral",),
    ),
    Scenario(
        name="device unlike the training sites', no malignant lesion",
        device=-1.5,
        positives=0,
        methods=("informed",),
        breaks=("informed",),
    ),
    Scenario(
        name="device unlike the training sites', 12 malignant",
        device=-1.5,
        positives=12,
        methods=("informed",),
        breaks=("informed",),
    ),
    Scenario(
        name="device unlike the training sites', 40 malignant",
        device=-1.5,
        methods=OFFERED,
        breaks=("informed",),
    ),
    Scenario(name="sites scatter uniformly", shape="uniform", positives=12, methods=("informed",)),
    Scenario(name="sites scatter with heavy tails", shape="heavy", positives=12, methods=("informed",)),
    Scenario(
        name="sites scatter skewed to low scores",
        shape="skewed",
        spread=1.0,
        positives=0,
        methods=("informed",),
        breaks=("informed",),
    ),
    Scenario(
        name="three sites of two groups",
        shape="two groups",
        training_sites=3,
        spread=1.0,
        positives=0,
        methods=("informed",),
        breaks=("informed",),
    ),
)

GRID: Final = tuple(
    Scenario(
        name=f"J={sites}, n={positives}, spread={spread:g}",
        training_sites=sites,
        positives=positives,
        spread=spread,
        methods=("informed",),
    )
    for sites, positives, spread in product((3, 5, 20), (0, 5, 12, 28, 60), (0.0, 0.3, 1.0))
)
"""The informed threshold where the federation is small or large, its sites alike or not."""


def table(rows: Iterable[Row]) -> str:
    """Return a Markdown table; intervals are Clopper and Pearson's, 95 %."""
    lines = [
        "| scenario | method | violations, % | 95 % | specificity lost | offered, % | found |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rate, interval, cost = "", "", ""
        if row.offered:
            ends = binomtest(row.violations, row.offered).proportion_ci(0.95, method="exact")
            rate = f"{100 * row.violations / row.offered:.1f}"
            interval, cost = f"{100 * ends.low:.1f}–{100 * ends.high:.1f}", f"{row.cost:.3f}"
        share = f"{100 * row.offered / row.sites:.1f}"
        surprise = " (not expected)" if surprising(row) else ""
        cells = (row.scenario, row.method, rate, interval, cost, share, row.found + surprise)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def surprising(row: Row) -> bool:
    """Return whether a method did not do what its scenario expects; one never offered promises nothing."""
    return row.found not in (row.expected, "never offered")


def main() -> int:
    """Print both tables; 1 where anything was not as expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=2026)
    chosen = parser.parse_args()
    unexpected = False
    for scenarios in (SCENARIOS, GRID):
        rows = [row for scenario in scenarios for row in simulate(scenario, chosen.sites, chosen.seed)]
        print(table(rows), end="\n\n", flush=True)
        unexpected |= any(surprising(row) for row in rows)
    return int(unexpected)


if __name__ == "__main__":
    sys.exit(main())
