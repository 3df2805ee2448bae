"""Rows of the long format: site, role, split, round, unit, metric, value, lower, upper, n, positives.

``split`` names the images: ``test`` (and the federation's operating point), ``test-recalibrated`` (the same
images at the site's own point), ``test-with-prior`` (each site's log odds added), ``whole-site`` (a held-out
site's calibration and test splits, federation's point), ``test-personal`` (the same images seen by the
site's personal model: in a round at the federation's point, at the end at that model's own).
"""

from collections.abc import Iterator, Mapping
from typing import Final, TypedDict

from fedderm.evaluation.counts import UNITS, Counts
from fedderm.evaluation.documents import (
    WITH_PRIOR,
    FederationEvaluation,
    OperatingPoint,
    Performance,
    SiteEvaluation,
    Unit,
)
from fedderm.evaluation.metrics import Scheme
from fedderm.evaluation.recalibration import performance_of_counts

POOLED: Final = "(pooled)"

POOLS: Final = {
    "train": ("train", "test"),
    "held-out": ("held-out", "test"),
    WITH_PRIOR: ("train", "test-with-prior"),
}
"""Every pool's role and split."""

CALIBRATION: Final = "calibration"
"""The key of a site's calibration counts beside those of the pools it is part of."""

PERSONAL: Final = "test-personal"
"""The split of a site's personal model, which is never pooled."""

COLUMNS: Final = (
    "site",
    "role",
    "split",
    "round",
    "unit",
    "metric",
    "value",
    "lower",
    "upper",
    "n",
    "positives",
)


class LongRow(TypedDict):
    """One value; None is an empty field."""

    site: str
    role: str
    split: str
    round: int | None
    unit: Unit
    metric: str
    value: float | None
    lower: float | None
    upper: float | None
    n: int
    positives: int


def long_rows_of_site(found: SiteEvaluation, round_: int | None = None) -> list[LongRow]:
    """Return a site's rows: before, after and, for a held-out site, the whole site."""
    parts = {"test": found.before, "test-recalibrated": found.after, "whole-site": found.whole_site}
    if found.personal is not None:
        parts[PERSONAL] = found.personal.performance
    return [
        row
        for split, performances in parts.items()
        for row in _rows(found.site, found.role, split, round_, performances)
    ]


def long_rows_of_federation(found: FederationEvaluation, round_: int | None = None) -> list[LongRow]:
    """Return the pool's rows, one block a role."""
    return [
        row
        for name, performances in found.pooled.items()
        for row in _rows(POOLED, *POOLS[name], round_, performances)
    ]


def long_rows_of_counts(
    counts: Counts,
    point: OperatingPoint,
    scheme: Scheme,
    *,
    site: str = POOLED,
    role: str,
    split: str,
    round_: int | None = None,
) -> list[LongRow]:
    """Return one split's rows from its counts (a pool's from summed counts), without intervals."""
    performances = {unit: performance_of_counts(counts, unit, point, scheme) for unit in UNITS}
    return list(_rows(site, role, split, round_, performances))


def _rows(
    site: str, role: str, split: str, round_: int | None, performances: Mapping[Unit, Performance]
) -> Iterator[LongRow]:
    for unit, found in performances.items():
        for metric, estimate in found.metrics.items():
            yield LongRow(
                site=site,
                role=role,
                split=split,
                round=round_,
                unit=unit,
                metric=metric,
                value=estimate.value,
                lower=estimate.lower,
                upper=estimate.upper,
                n=found.n,
                positives=found.positives,
            )
