"""The report's figures as inline SVG: thresholds, ROC curves, reliability, learning curves."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedderm.evaluation.documents import Estimate, ReliabilityBin, Roc, SiteEvaluation
from fedderm.report.drawing import AFTER, BEFORE, FAINT, GRID, INK, MUTED, PAPER, as_svg, canvas, ink_of
from fedderm.report.folder import RunFolder, at_lesion_level
from fedderm.report.formats import decimal, known, metric, percent

POOLED = "(pooled)"
POOL_LABELS = {"train": "training, pooled", "held-out": "held-out, pooled"}
MOST_LABELLED = 12
"""More curves than this are told apart by colour alone; the table has their numbers."""


def thresholds_figure(run: RunFolder) -> Markup:
    """Return sensitivity and specificity of every site, at the federation's threshold and at its own."""
    sites = list(run.sites.values())
    with canvas(9.0, 0.55 + 0.38 * len(sites), columns=2) as (figure, panels):
        for axes, name, title in zip(
            panels, ("sensitivity", "specificity"), ("Sensitivity", "Specificity"), strict=True
        ):
            for row, site in enumerate(sites):
                _mark(axes, row - 0.13, metric(at_lesion_level(site.before), name), BEFORE, filled=False)
                _mark(axes, row + 0.13, metric(at_lesion_level(site.after), name), AFTER, filled=True)
            axes.set(xlim=(-0.02, 1.02), ylim=(len(sites) - 0.5, -0.5))
            axes.set_title(title, loc="left", fontsize=9, fontweight="bold", color=INK)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
            axes.grid(axis="y", visible=False)
            axes.spines["left"].set_visible(False)
            axes.set_yticks(range(len(sites)), [site.site for site in sites] if axes is panels[0] else [])
            for label, site in zip(axes.get_yticklabels(), sites, strict=False):
                label.set_color(ink_of(site.role))
        target = run.federation.certificate.target_sensitivity
        panels[0].axvline(target, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        said = [_change_in_words(site) for site in sites]
        return as_svg(figure, "thresholds", f"Target sensitivity {target:.2f}. " + " ".join(said))


def _mark(axes: Axes, height: float, estimate: Estimate, ink: str, filled: bool) -> None:
    if estimate.value is None or not known(estimate.value):
        return
    if estimate.lower is not None and estimate.upper is not None:
        axes.plot([estimate.lower, estimate.upper], [height, height], color=ink, linewidth=1.3)
    face = ink if filled else PAPER
    axes.plot(estimate.value, height, "o", markersize=5, markerfacecolor=face, markeredgecolor=ink, zorder=3)


def _change_in_words(site: SiteEvaluation) -> str:
    before, after = (at_lesion_level(by_unit) for by_unit in (site.before, site.after))
    return (
        f"{site.site}: sensitivity {percent(metric(before, 'sensitivity').value)} at the federation's "
        f"threshold, {percent(metric(after, 'sensitivity').value)} at its own; specificity "
        f"{percent(metric(before, 'specificity').value)}, then {percent(metric(after, 'specificity').value)}."
    )


def roc_figures(run: RunFolder) -> dict[str, Markup]:
    """Return a ROC panel a site with both classes: its curve over the others', both operating points."""
    curves = {name: roc for name, site in run.sites.items() if (roc := _roc_of(site))}
    panels = {}
    for index, (name, roc) in enumerate(curves.items()):
        others = [other for key, other in curves.items() if key != name]
        panels[name] = _roc_panel(run.sites[name], roc, others, f"roc{index}")
    return panels


def _roc_of(site: SiteEvaluation) -> Roc | None:
    roc = site.roc.get("lesion") or site.roc.get("image")
    return roc if roc is not None and len(roc.false_positive_rate) > 1 else None


def _roc_panel(site: SiteEvaluation, roc: Roc, others: list[Roc], figure_name: str) -> Markup:
    with canvas(2.5, 2.4) as (figure, (axes,)):
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=0.8)
        axes.plot(*_in_one(others), color=FAINT, linewidth=0.9)
        axes.plot(*_thinned(roc, 200), color=ink_of(site.role), linewidth=1.8)
        for by_unit, filled in ((site.before, False), (site.after, True)):
            performance = at_lesion_level(by_unit)
            sensitivity = metric(performance, "sensitivity").value
            specificity = metric(performance, "specificity").value
            if sensitivity is not None and specificity is not None:
                face = INK if filled else PAPER
                axes.plot(1 - specificity, sensitivity, "o", ms=5.5, mfc=face, mec=INK, mew=1.1, zorder=4)
        _unit_square(axes, "1 − specificity", "Sensitivity")
        area = decimal(metric(at_lesion_level(site.before), "auc").value)
        described = f"ROC curve of {site.site} on its test split, area {area}. {_change_in_words(site)}"
        return as_svg(figure, figure_name, described)


def _thinned(roc: Roc, points: int) -> tuple[list[float], list[float]]:
    """Return at most ``points`` of a curve's vertices, ends included: thousands make a megabyte of SVG."""
    kept = np.unique(np.linspace(0, len(roc.false_positive_rate) - 1, points).round().astype(int))
    return [roc.false_positive_rate[i] for i in kept], [roc.true_positive_rate[i] for i in kept]


def _in_one(curves: Sequence[Roc]) -> tuple[list[float], list[float]]:
    """Return all curves as one line with gaps: of many sites that is drawn in a fraction of the time."""
    x: list[float] = []
    y: list[float] = []
    for curve in curves:
        rates = _thinned(curve, 40)
        x += [*rates[0], math.nan]
        y += [*rates[1], math.nan]
    return x, y


def _unit_square(axes: Axes, x: str, y: str) -> None:
    ticks = [0, 0.25, 0.5, 0.75, 1]
    names = ["0", "", "0.5", "", "1"]
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y, aspect="equal")
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)


def reliability_figures(run: RunFolder) -> dict[str, Markup]:
    """Return one reliability diagram a site with any bin: before and after its recalibration."""
    drawn = [site for site in run.sites.values() if site.reliability_before or site.reliability_after]
    return {site.site: _reliability_panel(site, index) for index, site in enumerate(drawn)}


def _reliability_panel(site: SiteEvaluation, index: int) -> Markup:
    with canvas(2.5, 2.4) as (figure, (axes,)):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        _reliability(axes, site.reliability_before, BEFORE, filled=False)
        _reliability(axes, site.reliability_after, AFTER, filled=True)
        _unit_square(axes, "Predicted probability", "Observed frequency")
        before, after = (
            decimal(metric(at_lesion_level(by_unit), "ece").value) for by_unit in (site.before, site.after)
        )
        described = (
            f"Reliability of {site.site}: calibration error {before} before its recalibration, {after} after."
        )
        return as_svg(figure, f"reliability{index}", described)


def _reliability(axes: Axes, bins: list[ReliabilityBin], ink: str, filled: bool) -> None:
    shown = sorted((entry for entry in bins if entry.n > 0), key=lambda entry: entry.predicted)
    if not shown:
        return
    predicted = [entry.predicted for entry in shown]
    observed = [entry.observed for entry in shown]
    # No line joins the points: between bins of two or three lesions it would draw nothing but noise.
    low, high = [entry.lower for entry in shown], [entry.upper for entry in shown]
    axes.vlines(predicted, low, high, color=ink, linewidth=0.7, alpha=0.6)
    area = 7 + 70 * np.array([entry.n / max(other.n for other in shown) for entry in shown])
    face = ink if filled else PAPER
    axes.scatter(predicted, observed, s=area, facecolor=face, edgecolor=ink, linewidth=1, zorder=3)


def learning_figures(run: RunFolder) -> list[tuple[str, Markup]]:
    """Return (title, figure) by round: AUC of every site and pool, loss of every training site."""
    drawn = []
    unit, split, curves = auc_by_round(run)
    if curves:
        title = f"AUC by round, {split} split, by {unit}"
        drawn.append((title, _curves_figure(run, curves, "auc-rounds", title, "AUC")))
    losses = loss_by_round(run)
    if losses:
        title = "Training loss by round"
        drawn.append((title, _curves_figure(run, losses, "loss-rounds", title, "Loss")))
    return drawn


def auc_by_round(run: RunFolder) -> tuple[str, str, dict[str, pd.Series]]:
    """Return (unit, split, AUC by round of every site or pool that has one), from ``rounds/metrics.csv``.

    Lesions are preferred to images and the test split to the others; pools are named by their role.
    """
    table = run.rounds[(run.rounds["metric"] == "auc") & run.rounds["value"].notna()]
    if table.empty:
        return "lesion", "test", {}
    unit = "lesion" if (table["unit"] == "lesion").any() else "image"
    table = table[table["unit"] == unit]
    split = next(name for name in ("test", "calibration", *table["split"]) if (table["split"] == name).any())
    table = table[table["split"] == split]
    curves = {}
    for (site, role), rows in table.groupby(["site", "role"], sort=False):
        label = POOL_LABELS.get(str(role), str(role)) if site == POOLED else str(site)
        curves[label] = rows.set_index("round")["value"].sort_index()
    return unit, str(split), curves


def loss_by_round(run: RunFolder) -> dict[str, pd.Series]:
    """Return every training site's loss by round, from ``rounds/state.json``; missed rounds are left out."""
    losses: dict[str, dict[int, float]] = {}
    for entry in run.state.get("history") or []:
        for site, replied in (entry.get("sites") or {}).items():
            loss = replied.get("loss")
            if loss is not None and np.isfinite(loss):
                losses.setdefault(site, {})[int(entry["round"])] = float(loss)
    return {site: pd.Series(values).sort_index() for site, values in losses.items()}


def _curves_figure(run: RunFolder, curves: dict[str, pd.Series], name: str, title: str, axis: str) -> Markup:
    with canvas(5.0, 3.0) as (figure, (axes,)):
        for label, values in curves.items():
            width = 2.6 if label.endswith(", pooled") else 1.3
            ink = ink_of(_role_of(run, label))
            axes.plot(values.index, values, color=ink, linewidth=width, marker="o", markersize=2.8)
        axes.set(xlabel="Round", ylabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.margins(x=0.03, y=0.08)
        if len(curves) <= MOST_LABELLED:
            _label_ends(axes, run, curves)
        last = [f"{label} {decimal(values.iloc[-1])}" for label, values in curves.items()]
        return as_svg(figure, name, f"{title}; at the end: {', '.join(last)}.")


def _role_of(run: RunFolder, label: str) -> str:
    if label in run.sites:
        return run.sites[label].role
    return next((role for role, name in POOL_LABELS.items() if name == label), "train")


def _label_ends(axes: Axes, run: RunFolder, curves: dict[str, pd.Series]) -> None:
    """Write every curve's name at its end, in order of its last value, spread so that names do not touch."""
    low, high = axes.get_ylim()
    last = max(values.index[-1] for values in curves.values())
    ends = sorted((float(values.iloc[-1]), label) for label, values in curves.items())
    heights = spread([value for value, _ in ends], (high - low) * 0.068, low, high)
    for (_, label), height in zip(ends, heights, strict=True):
        heavy = "bold" if label.endswith(", pooled") else "normal"
        axes.annotate(
            label,
            (last, height),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            fontweight=heavy,
            color=ink_of(_role_of(run, label)),
            annotation_clip=False,
        )


def spread(heights: list[float], apart: float, low: float, high: float) -> list[float]:
    """Return ascending ``heights``, moved until they are ``apart`` and between ``low`` and ``high``."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + apart) if placed else max(height, low))
    ceiling = high
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - apart
    return placed
