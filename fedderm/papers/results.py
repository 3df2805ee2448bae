"""What a run measured: tables for the model card, sentences for the checklists.

Numbers are those of the run's documents, of lesions where lesions were evaluated. A site's own minimum cell
size has emptied its documents already; an empty value is a dash here, never a zero.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fedderm.evaluation.documents import Estimate, Performance, SiteEvaluation, Subgroup
from fedderm.papers.data import cards_of
from fedderm.papers.markdown import told
from fedderm.report.folder import RunFolder, at_lesion_level
from fedderm.report.formats import count, decimal, interval, known, listing, metric
from fedderm.report.sentences import promise
from fedderm.report.tables import discrimination_rows, threshold_rows

_MORE_METRICS = {
    "average_precision": "average precision",
    "ece_mass": "ECE in bins of equal mass",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
}
"""Told where an evaluation holds them."""


@dataclass(frozen=True)
class PerformanceLine:
    """One site, or pool, at one threshold; every field is ready to print."""

    name: str
    threshold: str
    lesions: str
    auc: str
    sensitivity: str
    specificity: str
    referrals: str
    ece: str
    brier: str


def result_facts(run: RunFolder) -> dict[str, str]:
    """Return what was measured, by topic."""
    sites = list(run.sites.values())
    return {
        "discrimination": told(_auc(line) for line in discrimination_lines(run)),
        "at_thresholds": told(_at_threshold(line) for line in performance_lines(run)),
        "calibration": told(_calibration(site) for site in sites),
        "certificates": told(f"{site.site}: {promise(site.certificate)}." for site in sites),
        "federation_threshold": run.federation.operating_point.origin,
        "recalibration": told(f"{site.site}: {site.site_point.origin}" for site in sites),
        "offers": told(f"{site.site}: {offer.promise}" for site in sites for offer in site.thresholds),
        "zones": told(_zones(site) for site in sites),
        "decisions": told(_decisions(site) for site in sites),
        "shift": told(
            f"{site.site}: {site.shift.sentence} {site.shift.action}"
            for site in sites
            if site.shift is not None
        ),
        "heterogeneity": _heterogeneity(run),
        "gaps": told(_gaps(site) for site in sites),
        "subgroups": _subgroups(run),
        "events": told(_events(site) for site in sites),
        "not_reported": _not_reported(run),
    }


def estimate(value: Estimate, places: int = 3) -> str:
    """Return ``0.845 (0.80–0.89)``, the value alone where it has no interval, a dash where undefined."""
    span = interval(value)
    return f"{decimal(value.value, places)} ({span})" if span else decimal(value.value, places)


def performance_lines(run: RunFolder) -> list[PerformanceLine]:
    """Return each site at the federation's threshold and at its own, then the pools."""
    lines = [
        _line(site.site, row.label, row.performance)
        for site in run.sites.values()
        for row in threshold_rows(site)
        if row.performance is not None
    ]
    pools = {"held-out": "held-out sites, pooled", "train": "training sites, pooled"}
    for role, label in pools.items():
        pooled = at_lesion_level(run.federation.pooled.get(role, {}))
        if pooled is not None:
            lines.append(_line(label, "Federation’s threshold", pooled))
    return lines


def _line(name: str, threshold: str, found: Performance) -> PerformanceLine:
    referrals = metric(found, "referrals_per_1000")
    span = referrals.lower is not None and referrals.upper is not None
    limits = f" ({referrals.lower:.0f}–{referrals.upper:.0f})" if span else ""
    return PerformanceLine(
        name=name,
        threshold=threshold,
        # 0 is also what a site reports whose minimum cell size hides the split.
        lesions=f"{count(found.n)} ({count(found.positives)})" if found.n else "–",
        auc=estimate(metric(found, "auc")),
        sensitivity=estimate(metric(found, "sensitivity")),
        specificity=estimate(metric(found, "specificity")),
        referrals=f"{decimal(referrals.value, 0)}{limits}",
        ece=estimate(metric(found, "ece")),
        brier=estimate(metric(found, "brier")),
    )


def discrimination_lines(run: RunFolder) -> list[tuple[str, str, str]]:
    """Return (site or pool, lesions, AUC).

    Held-out sites are told by all their lesions, training sites by their test split.
    """
    return [
        (row.site, f"{count(shown.n)} ({count(shown.positives)})" if shown.n else "–", estimate(row.auc))
        for row in discrimination_rows(run)
        if (shown := row.lesion or row.image) is not None
    ]


def subgroup_lines(run: RunFolder) -> list[tuple[SiteEvaluation, list[Subgroup]]]:
    """Return the sites that have subgroups, with them."""
    return [(site, site.subgroups) for site in run.sites.values() if site.subgroups]


def _auc(line: tuple[str, str, str]) -> str:
    name, lesions, auc = line
    return f"{name}: AUC {auc}, {lesions} lesions (malignant)." if auc != "–" else ""


def _at_threshold(line: PerformanceLine) -> str:
    if line.sensitivity == line.specificity == "–":
        return ""
    threshold = f"{line.threshold[0].lower()}{line.threshold[1:]}"
    return (
        f"{line.name}, {threshold}: sensitivity {line.sensitivity}, specificity {line.specificity}, "
        f"{line.referrals} referrals per 1,000, ECE {line.ece}, Brier {line.brier}."
    )


def _calibration(site: SiteEvaluation) -> str:
    after = at_lesion_level(site.after)
    parts = [
        f"{words} {estimate(found)}"
        for name, words in _MORE_METRICS.items()
        if known((found := metric(after, name)).value)
    ]
    return f"{site.site}, at its own operating point: {', '.join(parts)}." if parts else ""


def _zones(site: SiteEvaluation) -> str:
    parts = [
        f"{zone.name} {count(zone.lesions)} lesions, {count(zone.malignant)} malignant" for zone in site.zones
    ]
    return f"{site.site}, zones: {'; '.join(parts)}." if parts else ""


def _decisions(site: SiteEvaluation) -> str:
    if site.decisions is None:
        return ""
    changed = site.decisions
    tested = f" (McNemar, p {decimal(changed.p_value)})" if known(changed.p_value) else ""
    return (
        f"{site.site}: {changed.only_after} lesions right only at the site's own threshold, "
        f"{changed.only_before} only at the federation's{tested}."
    )


def _heterogeneity(run: RunFolder) -> str:
    values = [
        (float(row.auc.value), row.site)
        for row in discrimination_rows(run)
        if not row.pooled and row.auc.value is not None and known(row.auc.value)
    ]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    return (
        f"AUC by site lies between {decimal(low[0])} ({low[1]}) and {decimal(high[0])} ({high[1]}); metrics "
        "of pools come from summed score counts and are never averaged."
    )


def _gaps(site: SiteEvaluation) -> str:
    parts = [
        f"{gap.metric} by {gap.attribute} {estimate(gap.difference)} ({gap.highest} over {gap.lowest})"
        for gap in site.subgroup_gaps
    ]
    return f"{site.site}, largest gaps: {'; '.join(parts)}." if parts else ""


def _subgroups(run: RunFolder) -> str:
    told_by = [f"{site.site} ({listing(_attributes(rows))})" for site, rows in subgroup_lines(run)]
    return f"Subgroups of test lesions at {listing(told_by)}." if told_by else ""


def _attributes(rows: Iterable[Subgroup]) -> list[str]:
    return list(dict.fromkeys(row.attribute for row in rows))


def _events(site: SiteEvaluation) -> str:
    tested = at_lesion_level(site.before)
    parts = (
        [f"test {count(tested.n)} lesions, {count(tested.positives)} malignant"]
        if tested and tested.n
        else []
    )
    # 0 is also what a site reports whose minimum cell size hides how many it has.
    if site.certificate.positives:
        parts.insert(0, f"calibration {count(site.certificate.positives)} malignant lesions")
    return f"{site.site}: {'; '.join(parts)}." if parts else ""


def _not_reported(run: RunFolder) -> str:
    gone = [f"{name} ({reason})" for name, reason in (run.state.get("not_concluded") or {}).items()]
    hidden = [
        name
        for name, card in cards_of(run).items()
        if card.min_cell > 1 and not _has_metrics(run.sites[name])
    ]
    return told(
        [
            f"No results from {listing(gone)}." if gone else "",
            f"Too few lesions to show results at {listing(hidden)}." if hidden else "",
        ]
    )


def _has_metrics(site: SiteEvaluation) -> bool:
    tested = at_lesion_level(site.before)
    return tested is not None and any(known(found.value) for found in tested.metrics.values())
