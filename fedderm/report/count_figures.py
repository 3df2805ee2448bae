"""Figures that need counts: precision by recall, and net benefit by threshold probability."""

from typing import Final

import numpy as np
from markupsafe import Markup

from fedderm.evaluation.curves import decision_curve, precision_recall
from fedderm.report.drawing import GRID, INK, MUTED, as_svg, canvas, ink_of
from fedderm.report.explorer import Explorer, ExplorerRow
from fedderm.report.folder import RunFolder
from fedderm.report.formats import decimal

PROBABILITIES: Final = np.arange(0.01, 0.605, 0.005)
"""Threshold probabilities shown; who asks for more than 60 % before a referral has no use for triage."""

MOST_POINTS: Final = 150


def precision_recall_figures(explorer: Explorer) -> dict[str, Markup]:
    """Return a precision-recall panel of every site with a malignant lesion among the counted ones."""
    figures = {}
    for index, row in enumerate(explorer.sites):
        panel = _precision_recall(row, f"recall{index}")
        if panel is not None:
            figures[row.name] = panel
    return figures


def _precision_recall(row: ExplorerRow, name: str) -> Markup | None:
    curve, n = precision_recall(row.test, "lesion"), row.test.n("lesion")
    if curve is None:
        return None
    prevalence = row.test.positives("lesion") / n
    kept = np.unique(np.linspace(0, len(curve.recall) - 1, MOST_POINTS).round().astype(int))
    with canvas(2.5, 2.4) as (figure, (axes,)):
        axes.axhline(prevalence, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.step(
            curve.recall[kept], curve.precision[kept], where="pre", color=ink_of(row.role), linewidth=1.6
        )
        ticks, names = [0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"]
        axes.set(
            xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="Sensitivity (recall)", ylabel="PPV (precision)"
        )
        axes.set_aspect("equal")
        axes.set_xticks(ticks, names)
        axes.set_yticks(ticks, names)
        described = (
            f"Precision by recall at {row.name}: average precision {decimal(curve.average_precision)}, "
            f"prevalence {decimal(prevalence)}."
        )
        return as_svg(figure, name, described)


def decision_figures(run: RunFolder, explorer: Explorer) -> dict[str, Markup]:
    """Return a decision curve of every site with both classes, with its own calibration."""
    figures = {}
    for index, row in enumerate(explorer.sites):
        positives, n = row.test.positives("lesion"), row.test.n("lesion")
        if 0 < positives < n:
            threshold = run.sites[row.name].site_point.threshold_probability
            figures[row.name] = _decision(row, threshold, f"benefit{index}")
    return figures


def _decision(row: ExplorerRow, threshold: float, name: str) -> Markup:
    curve = decision_curve(row.test, "lesion", row.map, PROBABILITIES)
    if curve is None:
        raise ValueError(f"decision curve: {row.name} has no lesion to draw one of")
    best = max(float(curve.model.max()), float(curve.everyone.max()), 1e-3)
    with canvas(2.5, 2.4) as (figure, (axes,)):
        axes.axhline(0, color=GRID, linewidth=1.2)
        axes.plot(curve.probability, curve.everyone, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(curve.probability, curve.model, color=ink_of(row.role), linewidth=1.8)
        if curve.probability[0] <= threshold <= curve.probability[-1]:
            axes.axvline(threshold, color=INK, linewidth=0.7, linestyle=(0, (1, 2)))
        axes.set(xlim=(0, 0.61), ylim=(-0.35 * best, 1.1 * best))
        axes.set(xlabel="Malignancy that is worth a referral", ylabel="Net benefit")
        axes.set_xticks([0, 0.2, 0.4, 0.6], ["0", "20 %", "40 %", "60 %"])
        middle = int(np.searchsorted(curve.probability, 0.1))
        described = (
            f"Net benefit at {row.name}, at a threshold probability of 10 %: {curve.model[middle]:.3f} with "
            f"the model, {curve.everyone[middle]:.3f} if all are referred, 0 if none is."
        )
        return as_svg(figure, name, described)
