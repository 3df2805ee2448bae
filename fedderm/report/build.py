"""``report.html``: one self-contained page from a run's folder."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.counts import bin_of
from fedderm.evaluation.curves import edge_probabilities
from fedderm.evaluation.documents import Performance, SiteEvaluation
from fedderm.report import count_figures, figures, formats, labels, sections, tables
from fedderm.report.explorer import explorer_of, small_share
from fedderm.report.explorer_data import page_data
from fedderm.report.folder import RunFolder, at_lesion_level
from fedderm.report.histograms import axis_of, histograms_of
from fedderm.report.parts import STYLE, page_environment, part
from fedderm.report.sentences import by_site, overview_of, paired_decisions
from fedderm.whole_file import write_whole
from sites.diagnoses import CLASSES

TEMPLATE = "template.html.md"
SCRIPT = "explorer.js.md"
EXPLORER_STYLE = "explorer.css.md"

Papers = Sequence[tuple[str, Markup]]
"""(title, HTML) of each paper for the ethics board."""


def write_report(run: RunFolder, papers: Papers) -> Path:
    """Return the path of the report, written whole or not at all. Raises OSError where the disk refuses."""
    page = render(run, papers)
    target = run.path / "report.html"
    write_whole(target, page)
    return target


def render(run: RunFolder, papers: Papers = ()) -> str:
    """Return the page: HTML with style, script, figures and images inside; it asks the network for nothing.

    ``papers`` are shown as they are: their HTML must be safe.
    """
    environment = page_environment()
    environment.filters.update(small_share=small_share)
    environment.globals.update(
        metric=formats.metric,
        interval=formats.span,
        known=formats.known,
        why_missing=formats.why_missing,
        plural=formats.plural,
        bar=interval_bar,
        same_map=tables.same_map,
        at_lesion_level=at_lesion_level,
        malignancy=malignancy,
        paired=paired_decisions,
    )
    content = (
        _content(run) | _explorer(run) | {"papers": [(title, _with_scope(html)) for title, html in papers]}
    )
    return environment.get_template(TEMPLATE).render(**content, contents=_contents(content))


def _with_scope(html: Markup) -> Markup:
    """Return HTML whose table heads say that they head columns, which Markdown cannot."""
    return Markup(re.sub(r"<th(?=[ >])", '<th scope="col"', str(html)))


def _explorer(run: RunFolder) -> dict[str, Any]:
    """Return what the page draws from counts: nothing for a run without them."""
    explorer = explorer_of(run)
    if explorer is None:
        return {"explorer": None, "recall": {}, "benefit": {}}
    return {
        "explorer": explorer,
        "explorer_data": page_data(explorer, axis_of(explorer)),
        "histograms": histograms_of(explorer),
        "script": part(SCRIPT),
        "recall": count_figures.precision_recall_figures(explorer),
        "benefit": count_figures.decision_figures(run, explorer),
    }


def _contents(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (id, label) of the page's sections, without those that this run has nothing for."""
    sites: list[SiteEvaluation] = content["sites"]
    listed = [
        ("overview", "Who took part", True),
        ("thresholds", "Before and after", True),
        ("explorer", "Threshold explorer", True),
        ("offers", "Ways to set a threshold", any(site.thresholds for site in sites)),
        ("zones", "Three zones", any(site.zones for site in sites)),
        ("shift", "What changed", any(site.shift for site in sites)),
        ("discrimination", "Discrimination", True),
        ("calibration", "Calibration", True),
        ("benefit", "Net benefit", bool(content["benefit"])),
        ("subgroups", "Subgroups", any(site.subgroups for site in sites)),
        ("patterns", "Patterns of BCC", any(site.patterns for site in sites)),
        ("diagnoses", "Diagnoses", any(site.diagnosis_head for site in sites)),
        ("learning", "Learning curves", True),
        ("federation", "Federation", True),
        ("sites", "Sites", True),
        ("audit", "Audit", True),
        ("limits", "Intended use and limits", True),
        ("papers", "Papers", bool(content["papers"])),
        ("reproduce", "Config and environment", True),
    ]
    return [(target, label) for target, label, shown in listed if shown]


def malignancy(site: SiteEvaluation, threshold: float) -> float:
    """Return the probability that the site's own calibration gives a threshold on a bin edge."""
    return float(edge_probabilities(CalibrationMap.of(site.site_point))[bin_of(threshold)])


def _content(run: RunFolder) -> dict[str, Any]:
    rounds = sections.round_rows(run)
    evaluation = run.config.get("evaluation") or {}
    metric_names = labels.recorded_metrics(list(run.sites.values()))
    return {
        "run": run,
        "style": part(STYLE) + part(EXPLORER_STYLE),
        "overview": overview_of(run),
        "summaries": by_site(run),
        "facts": _facts(run, rounds),
        "sites": list(run.sites.values()),
        "threshold_rows": {name: tables.threshold_rows(site) for name, site in run.sites.items()},
        "thresholds_figure": figures.thresholds_figure(run),
        "discrimination": tables.discrimination_rows(run),
        "roc": figures.roc_figures(run),
        "reliability": figures.reliability_figures(run),
        "learning": figures.learning_figures(run),
        "cards": sections.site_cards(run),
        "rounds": rounds,
        "totals": sections.round_totals(rounds),
        "privacy": sections.privacy_rows(run),
        "client_privacy": next(
            (one for one in reversed(run.state.get("history") or []) if "client_epsilon" in one), None
        ),
        "privacy_settings": (run.config.get("training") or {}).get("privacy"),
        "traffic": run.state.get("traffic"),
        "exchange": (run.config.get("strategy") or {}).get("exchange"),
        "missing_sites": run.state.get("not_concluded") or {},
        "config_baseline": run.config.get("baseline", "none"),
        "audit": sections.audit_of(run),
        "metric_names": metric_names,
        "calibration_metrics": [name for name in labels.CALIBRATION_METRICS if name in metric_names],
        "method_names": labels.METHOD_NAMES,
        "zone_names": labels.ZONE_NAMES,
        "verdict_names": labels.VERDICT_NAMES,
        "classes": CLASSES,
        "calibration_names": labels.CALIBRATION_NAMES,
        "hub": _hub(run, rounds),
        "bootstrap": evaluation.get("bootstrap"),
        "environment": run.environment,
        "missing_notes": missing_notes(run),
    }


def _facts(run: RunFolder, rounds: list[sections.RoundRow]) -> list[tuple[str, str]]:
    """Return the (label, value) pairs of the strip under the title."""
    strategy, model = run.config.get("strategy") or {}, run.config.get("model") or {}
    spent = run.environment.get("seconds")
    pairs = [
        ("Training sites", str(len(run.of_role("train")))),
        ("Held-out sites", str(len(run.of_role("held-out")))),
        ("Rounds", str(len(rounds) or run.state.get("round") or formats.MISSING)),
        ("Strategy", formats.plain(strategy.get("name")) if isinstance(strategy, dict) else str(strategy)),
        ("Backbone", formats.plain(model.get("backbone") or model.get("differentiation_backbone"))),
        ("Duration", formats.duration(float(spent)) if isinstance(spent, int | float) else formats.MISSING),
    ]
    return [(label, value) for label, value in pairs if value != formats.MISSING]


def _hub(run: RunFolder, rounds: list[sections.RoundRow]) -> str:
    """Return what stands between the sites in the overview: how many rounds of which strategy."""
    strategy = run.config.get("strategy")
    name = strategy.get("name") if isinstance(strategy, dict) else strategy
    told = formats.plural(len(rounds), "round") if rounds else ""
    return ", ".join(part for part in (told, formats.plain(name) if name else "") if part)


def missing_notes(run: RunFolder) -> list[str]:
    """Return why values are missing, a site and reason each: the tooltip's text for paper and touch."""
    notes, recorded = [], labels.recorded_metrics(list(run.sites.values()))
    for site in run.sites.values():
        performances: list[Performance | None] = [at_lesion_level(site.before), at_lesion_level(site.after)]
        reasons = {
            formats.why_missing(performance, name)
            for performance in performances
            for name in recorded
            if not formats.known(formats.metric(performance, name).value)
        }
        notes += [f"{site.site}: {reason}" for reason in sorted(reasons)]
    return notes


def interval_bar(
    value: float | None, lower: float | None, upper: float | None, role: str, low: float
) -> Markup:
    """Return a value and its interval as a small bar on a scale from ``low`` to 1; empty where undefined."""
    if value is None or not formats.known(value):
        return Markup("")

    def place(number: float) -> float:
        return 4 + 152 * (min(max(number, low), 1) - low) / (1 - low)

    whisker = ""
    if lower is not None and upper is not None:
        whisker = f'<line class="whisker" x1="{place(lower):.1f}" x2="{place(upper):.1f}" y1="9" y2="9"/>'
    return Markup(
        f'<svg class="bar {role}" viewBox="0 0 160 18" aria-hidden="true">'
        f'<line class="axis" x1="4" x2="156" y1="9" y2="9"/>{whisker}'
        f'<circle cx="{place(value):.1f}" cy="9" r="4"/></svg>'
    )
