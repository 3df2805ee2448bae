"""The rows of the report's tables, and the per-site table that the terminal prints."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.documents import Certificate, Estimate, OperatingPoint, Performance, SiteEvaluation
from fedderm.report.folder import RunFolder, at_lesion_level, read_run
from fedderm.report.formats import decimal, detected, interval, known, metric, spared


@dataclass(frozen=True)
class SiteRow:
    """One site in the terminal's table; every field is ready to print."""

    site: str
    role: str
    lesions: str
    """``220 (33)``: lesions that the AUC was measured on, and the malignant ones among them."""
    auc: str
    """``0.791 [0.71–0.86]``."""
    sensitivity: str
    """``80 → 90``, percent: at the federation's threshold and at the site's own, on the same test split."""
    specificity: str
    certificate: str
    """``certified``; else ``15 of 29`` malignant calibration lesions needed, or ``under 29`` where hidden."""


def site_table(run_dir: Path) -> list[SiteRow]:
    """Return one row a site, held-out sites first. Raises ValueError where the run is unfinished."""
    return [_site_row(site) for site in read_run(run_dir).sites.values()]


def _site_row(site: SiteEvaluation) -> SiteRow:
    measured = discrimination_of(site)
    auc = metric(measured, "auc")
    span = interval(auc)
    before, after = at_lesion_level(site.before), at_lesion_level(site.after)

    def change(name: str) -> str:
        old, new = metric(before, name).value, metric(after, name).value
        return " → ".join(decimal(None if value is None else 100 * value, places=0) for value in (old, new))

    return SiteRow(
        site=site.site,
        role=site.role,
        lesions=f"{measured.n:,} ({measured.positives:,})" if measured else "–",
        auc=f"{decimal(auc.value)} [{span}]" if span else decimal(auc.value),
        sensitivity=change("sensitivity"),
        specificity=change("specificity"),
        certificate=_of_needed(site.certificate),
    )


def _of_needed(certificate: Certificate) -> str:
    if certificate.certified:
        return "certified"
    # 0 is also what a site reports whose minimum cell size hides how many it has.
    few = f"{certificate.positives} of" if certificate.positives else "under"
    return f"{few} {certificate.needed}"


def discrimination_of(site: SiteEvaluation) -> Performance | None:
    """Return the numbers that say how well the model discriminates at a site, by lesion.

    A held-out site is told by all its lesions, for the model has seen none of them; a training site by its
    test split.
    """
    return at_lesion_level(site.whole_site) or at_lesion_level(site.before)


@dataclass(frozen=True)
class ThresholdRow:
    """A site at one operating point, in the before/after table."""

    label: str
    point: OperatingPoint
    performance: Performance | None
    found: tuple[int, int]
    spared: tuple[int, int]
    changed: bool
    """Whether it differs from the federation's operating point."""


def threshold_rows(site: SiteEvaluation) -> list[ThresholdRow]:
    """Return the site at the federation's operating point, then at its own, on the same test split."""
    pairs = (
        ("Federation’s threshold", site.federation_point, site.before),
        (_own_label(site), site.site_point, site.after),
    )
    rows = []
    for label, point, by_unit in pairs:
        performance = at_lesion_level(by_unit)
        found = detected(performance) if performance else (0, 0)
        left = spared(performance) if performance else (0, 0)
        changed = not (same_threshold(site) and same_map(site)) and point is site.site_point
        rows.append(ThresholdRow(label, point, performance, found, left, changed))
    return rows


def same_map(site: SiteEvaluation) -> bool:
    """Return whether a site kept the federation's calibration map: its probabilities do not change."""
    return CalibrationMap.of(site.federation_point) == CalibrationMap.of(site.site_point)


def same_threshold(site: SiteEvaluation) -> bool:
    """Return whether a site kept the federation's threshold: its decisions do not change."""
    return site.site_point.threshold == site.federation_point.threshold


def _own_label(site: SiteEvaluation) -> str:
    if not same_threshold(site):
        return "Site’s own threshold"
    return "Nothing recalibrated" if same_map(site) else "Recalibrated, threshold kept"


@dataclass(frozen=True)
class DiscriminationRow:
    """A site, or a pool of sites, in the table of AUCs."""

    site: str
    role: str
    lesion: Performance | None
    image: Performance | None
    gap: float | None
    """Pooled internal AUC minus this site's, by lesion; None at training sites."""
    pooled: bool = False
    worst: bool = False

    @property
    def auc(self) -> Estimate:
        """The lesion-level AUC; the image-level one where lesions were not evaluated."""
        return metric(self.lesion or self.image, "auc")


def discrimination_rows(run: RunFolder) -> list[DiscriminationRow]:
    """Return one row a site, then the pools; the site with the lowest AUC is marked as the worst."""
    internal = metric(at_lesion_level(run.federation.pooled.get("train", {})), "auc").value
    sites = [_discrimination_row(site, internal) for site in run.sites.values()]
    defined = [row for row in sites if known(row.auc.value)]
    worst = min(defined, key=lambda row: float(row.auc.value or 0)) if len(defined) > 1 else None
    marked = [replace(row, worst=row is worst) for row in sites]
    return [*marked, *_pooled_rows(run, internal)]


def _discrimination_row(site: SiteEvaluation, internal: float | None) -> DiscriminationRow:
    by_unit = site.whole_site or site.before
    row = DiscriminationRow(site.site, site.role, by_unit.get("lesion"), by_unit.get("image"), None)
    gap = gap_of(internal, row.auc.value) if site.role == "held-out" else None
    return replace(row, gap=gap)


def _pooled_rows(run: RunFolder, internal: float | None) -> Iterator[DiscriminationRow]:
    pools = {
        "held-out": "Held-out sites, pooled",
        "train": "Training sites, pooled",
        "train-with-prior": "Training sites, pooled, each with its own prevalence",
    }
    for pool, label in pools.items():
        role = "held-out" if pool == "held-out" else "train"
        by_unit = run.federation.pooled.get(pool, {})
        if by_unit:
            outside = at_lesion_level(by_unit)
            gap = gap_of(internal, metric(outside, "auc").value) if role == "held-out" else None
            yield DiscriminationRow(
                label, role, by_unit.get("lesion"), by_unit.get("image"), gap, pooled=True
            )


def gap_of(internal: float | None, outside: float | None) -> float | None:
    """Return internal minus held-out; None where either is undefined."""
    return None if internal is None or outside is None else internal - outside
