"""The threshold explorer: what every site's counts say at the federation's threshold, ready to print.

The rows stand without JavaScript; ``explorer.js.md`` moves them, from the histograms of ``explorer_data``.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.counts import BINS, Counts, bin_of, lower_edge
from fedderm.evaluation.curves import MOST, Decisions, auc_of_counts, decisions_at, edge_probabilities
from fedderm.evaluation.documents import Certificate, Unit
from fedderm.evaluation.intervals import LEVEL
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.thresholds import federation_threshold
from fedderm.report.folder import RunFolder
from fedderm.report.formats import MISSING, NBSP, count, decimal, metric


@dataclass(frozen=True)
class Cell:
    """One number of the explorer's table; ``below`` stands under it in small."""

    name: str
    text: str
    below: str = ""


@dataclass(frozen=True, eq=False)
class ExplorerRow:
    """One site, or the sites of one role added up."""

    name: str
    role: str
    test: Counts
    calibration: Counts | None
    """None where the site kept it to itself, and for the pool of held-out sites, which sets no threshold."""
    map: CalibrationMap
    min_cell: int = 0
    members: tuple[str, ...] = ()
    """Of a pool."""

    @property
    def hides_a_class(self) -> bool:
        """Whether a minimum cell size may have left out all malignant or all benign lesions."""
        p = self.test.positives("lesion")
        return self.min_cell > 1 and not 0 < p < self.test.n("lesion")

    def cells(
        self, threshold: float, certificate: tuple[float, Certificate] | None, scale: CalibrationMap
    ) -> list[Cell]:
        """Return the row at a threshold, by lesion; ``certificate`` comes with its highest threshold.

        ``scale`` says certified thresholds as probabilities.
        """
        found = decisions_at(self.test, "lesion", threshold)
        # What a minimum cell size hides is not zero: rates over both classes would be wrong, not small.
        both = found.malignant > 0 and found.benign > 0
        p = min(MOST, float(edge_probabilities(self.map)[bin_of(threshold)]))
        benefit, everyone = found.net_benefit(p), _all_referred(found).net_benefit(p)
        referrals = found.referrals_per_1000 if both or self.min_cell <= 1 else None
        return [
            _share("sensitivity", found.found, found.malignant),
            _share("specificity", found.benign - found.alarms, found.benign),
            _share("ppv", found.found, found.referred if both else 0),
            _share("npv", found.benign - found.alarms, found.n - found.referred if both else 0),
            Cell("referrals", MISSING if referrals is None else count(referrals)),
            Cell("benefit", decimal(benefit), f"at {small_share(p)}; all: {decimal(everyone)}")
            if both and benefit is not None and everyone is not None
            else Cell("benefit", MISSING),
            self._certified(threshold, certificate, scale),
        ]

    def _certified(
        self, threshold: float, given: tuple[float, Certificate] | None, scale: CalibrationMap
    ) -> Cell:
        if given is None:
            return Cell("certified", MISSING)
        highest, certificate = given
        if not certificate.certified:
            hidden = self.min_cell > 1 and certificate.positives == 0
            have = f"under {self.min_cell}" if hidden else f"{certificate.positives}"
            return Cell("certified", "too few", f"{have} of {certificate.needed}")
        where = small_share(float(edge_probabilities(scale)[bin_of(highest)]))
        return Cell("certified", "yes" if threshold <= highest else "no", f"up to {where}")


def _all_referred(found: Decisions) -> Decisions:
    return Decisions(found.malignant, found.malignant, found.benign, found.benign)


def _share(name: str, hits: int, n: int) -> Cell:
    if n == 0:
        return Cell(name, MISSING)
    lower, upper = wilson(hits, n, LEVEL)
    return Cell(name, _percent(hits / n), f"{100 * lower:.0f}–{100 * upper:.0f}")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}{NBSP}%"


def small_share(p: float) -> str:
    """Return a threshold's probability in percent, with a second decimal below 1 %."""
    if p < 0.0001:
        return f"under 0.01{NBSP}%"
    return f"{100 * p:.2f}{NBSP}%" if p < 0.01 else _percent(p)


@dataclass(frozen=True)
class Exactness:
    """What sending counts instead of scores costs a site's AUC, by lesion of its test split."""

    site: str
    min_cell: int
    exact: float | None
    """The site's own, from its scores."""
    from_counts: float | None
    bound: float | None
    """How far the two can be apart by the bins' width alone."""


@dataclass(frozen=True, eq=False)
class Explorer:
    """Everything that the page's explorer shows."""

    rows: list[ExplorerRow]
    threshold: float
    target: float
    confidence: float
    kept_back: list[str]
    """Sites whose counts are not in the run's folder."""
    exactness: list[Exactness]
    federation: CalibrationMap

    @property
    def sites(self) -> list[ExplorerRow]:
        """The rows of sites, without pools."""
        return [row for row in self.rows if not row.members]

    @cached_property
    def table(self) -> list[tuple[ExplorerRow, list[Cell]]]:
        """Every row with its cells at the federation's threshold and the run's own target."""
        return [
            (row, row.cells(self.threshold, self.certificate_of(row), self.federation)) for row in self.rows
        ]

    def certificate_of(self, row: ExplorerRow) -> tuple[float, Certificate] | None:
        """Return a row's highest certified threshold at the run's own target, and its certificate."""
        if row.calibration is None:
            return None
        return federation_threshold(row.calibration, self.target, self.confidence)

    @property
    def steps(self) -> tuple[int, int, int]:
        """The lowest, highest and first bin of the slider: from all referred to none."""
        occupied = np.flatnonzero(sum(row.test.cells.sum(axis=(0, 1, 2)) for row in self.sites))
        start = int(bin_of(self.threshold))
        # The lowest bin is open: every threshold on an edge leaves it alone but the one that leaves nothing.
        return min(int(occupied[0]), start), max(min(int(occupied[-1]) + 1, BINS - 1), start), start

    @property
    def probability(self) -> float:
        """The federation's calibrated probability at its threshold."""
        return float(edge_probabilities(self.federation)[self.steps[2]])


def explorer_of(run: RunFolder) -> Explorer | None:
    """Return the explorer of a run; None where no site's test counts are in its folder."""
    rows = [_site_row(run, name) for name in run.sites if "test" in run.counts.get(name, {})]
    if not any(row.test.n("lesion") for row in rows):
        return None
    certificate, point = run.federation.certificate, run.federation.operating_point
    return Explorer(
        rows=[*rows, *_pools(rows, CalibrationMap.of(point))],
        threshold=lower_edge(int(bin_of(point.threshold))),
        target=certificate.target_sensitivity,
        confidence=certificate.confidence,
        kept_back=[name for name in run.sites if "test" not in run.counts.get(name, {})],
        exactness=[_exactness(run, row) for row in rows],
        federation=CalibrationMap.of(point),
    )


def _site_row(run: RunFolder, name: str) -> ExplorerRow:
    counts, site = run.counts[name], run.sites[name]
    return ExplorerRow(
        name=name,
        role=site.role,
        test=counts["test"],
        calibration=counts.get("calibration"),
        map=CalibrationMap.of(site.site_point),
        min_cell=run.min_cell_of(name),
    )


def _pools(rows: list[ExplorerRow], federation: CalibrationMap) -> list[ExplorerRow]:
    found = []
    for role, label in (("held-out", "Held-out sites, pooled"), ("train", "Training sites, pooled")):
        # A site that hides a class adds the other alone, and the pool's rates would be wrong.
        members = [row for row in rows if row.role == role and not row.hides_a_class]
        if len(members) > 1:
            test = sum((row.test for row in members), Counts.zero())
            parts = [row.calibration for row in members if row.calibration is not None]
            calibration = sum(parts, Counts.zero()) if role == "train" and parts else None
            names = tuple(row.name for row in members)
            found.append(ExplorerRow(label, role, test, calibration, federation, members=names))
    return found


def _exactness(run: RunFolder, row: ExplorerRow) -> Exactness:
    unit: Unit = "lesion"
    return Exactness(
        site=row.name,
        min_cell=row.min_cell,
        exact=metric(run.sites[row.name].before.get(unit), "auc").value,
        from_counts=auc_of_counts(row.test, unit),
        bound=row.test.auc_error_bound(unit),
    )
