"""Figures of the comparison's page: average ranks, and AUC by round and by byte."""

from collections.abc import Sequence
from typing import Final

import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedderm.comparison.effort import Curve
from fedderm.evaluation.arm_ranks import ArmRank
from fedderm.report.drawing import AFTER, BEFORE, HELD_OUT, INK, MUTED, TRAIN, as_svg, canvas, ink_of
from fedderm.report.figures import spread
from fedderm.report.formats import NBSP, decimal, size

_INKS: Final = (TRAIN, HELD_OUT, AFTER, BEFORE)
_DASHES: Final = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (7, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
"""None of 20 arms shares ink and dash with another, none of 28 ink and marker; the reference has its own."""

MOST_WITH_RANGE: Final = 6
"""Arms whose range over seeds is drawn at every round; with more it is drawn at the last one."""


def rank_figure(ranks: Sequence[ArmRank], role: str, reference: str) -> Markup:
    """Return the arms' average ranks with their intervals, the best on top."""
    found = [one for one in ranks if one.role == role]
    with canvas(5.2, 0.65 + 0.22 * len(found)) as (figure, (axes,)):
        for row, one in enumerate(found):
            ink = INK if one.arm == reference else ink_of(role)
            rank = one.estimate.value or 0.0
            if one.estimate.lower is not None and one.estimate.upper is not None:
                axes.plot([one.estimate.lower, one.estimate.upper], [row, row], color=ink, linewidth=1.6)
            axes.plot(rank, row, "o", markersize=5, color=ink)
        axes.set(
            xlim=(0.8, found[0].arms + 0.2), ylim=(len(found) - 0.5, -0.5), xlabel="Average rank (1 is best)"
        )
        axes.set_yticks(range(len(found)), [one.arm for one in found])
        for label, one in zip(axes.get_yticklabels(), found, strict=True):
            label.set_color(INK)
            label.set_fontweight("bold" if one.arm == reference else "normal")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        told = ", ".join(f"{one.arm} {one.estimate.value:.1f}" for one in found)
        return as_svg(figure, f"ranks-{role}", f"Average ranks over the seeds and sites of one role: {told}.")


def convergence_figures(curves: Sequence[Curve], reference: str) -> list[tuple[str, Markup]]:
    """Return (title, figure) of pooled AUC by round and by bytes exchanged, held-out sites first."""
    looks = _looks_of(curves, reference)
    found = []
    for role, words in (("held-out", "held-out sites"), ("train", "training sites")):
        of_role = [curve for curve in curves if curve.role == role]
        exchanging = [curve for curve in of_role if curve.exchanges and _bytes(curve.points).notna().all()]
        for title, axis, drawn in (
            (f"Pooled AUC of {words} by round", "Round", of_role),
            (f"Pooled AUC of {words} by bytes of training, down and up", "Bytes", exchanging),
        ):
            if drawn:
                found.append((title, _curves(drawn, axis, looks, reference, title)))
    return found


Look = tuple[object, str, str]
"""Dash, ink, marker."""


def _looks_of(curves: Sequence[Curve], reference: str) -> dict[str, Look]:
    arms = [arm for arm in dict.fromkeys(curve.arm for curve in curves) if arm != reference]
    return {reference: ("-", INK, "o"), **{arm: _look(index) for index, arm in enumerate(arms)}}


def _look(index: int) -> Look:
    dash = _DASHES[index // len(_INKS) % len(_DASHES)]
    return dash, _INKS[index % len(_INKS)], _MARKERS[index % len(_MARKERS)]


def _bytes(points: pd.DataFrame) -> pd.Series:
    return points["bytes_down"] + points["bytes_up"]


def _curves(curves: Sequence[Curve], axis: str, looks: dict[str, Look], reference: str, title: str) -> Markup:
    with canvas(5.0, max(3.0, 0.6 + 0.22 * len(curves))) as (figure, (axes,)):
        ends = []
        for curve in curves:
            points = curve.points
            x = points["round"] if axis == "Round" else _bytes(points)
            style, ink, marker = looks[curve.arm]
            width = 2.4 if curve.arm == reference else 1.4
            axes.plot(
                x, points["mean"], color=ink, linestyle=style, linewidth=width, marker=marker, markersize=3.5
            )
            _range(axes, x, points, str(ink), everywhere=len(curves) <= MOST_WITH_RANGE)
            ends.append((float(points["mean"].iloc[-1]), curve.arm, float(x.iloc[-1])))
        axes.set(xlabel="Round" if axis == "Round" else "Bytes exchanged so far", ylabel="AUC")
        axes.xaxis.set_major_locator(MaxNLocator(integer=axis == "Round", nbins=6))
        if axis == "Bytes":
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _octets(value)))
        axes.margins(x=0.03, y=0.08)
        _names(axes, ends, looks, reference)
        told = ", ".join(f"{arm} {decimal(value)}" for value, arm, _ in ends)
        name = title.lower().replace(" ", "-").replace(",", "")
        return as_svg(figure, name, f"{title}; at the end: {told}.")


def _octets(value: float) -> str:
    """Return a tick's bytes without a decimal that says nothing: ``80 MB``."""
    return size(value).replace(f".0{NBSP}", NBSP)


def _range(axes: Axes, x: pd.Series, points: pd.DataFrame, ink: str, *, everywhere: bool) -> None:
    if everywhere:
        axes.fill_between(x, points["lowest"], points["highest"], color=ink, alpha=0.12, linewidth=0)
    else:
        last = points.iloc[-1]
        axes.plot([x.iloc[-1]] * 2, [last["lowest"], last["highest"]], color=ink, linewidth=1, alpha=0.7)


def _names(axes: Axes, ends: list[tuple[float, str, float]], looks: dict[str, Look], reference: str) -> None:
    """Write every arm's name at the right, in order of its last value, and lead its curve there.

    ``ends`` are (last AUC, arm, last x). Names are spread so that they do not touch.
    """
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    ordered = sorted(ends)
    apart = (high - low) * min(0.068, 0.98 / max(1, len(ends)))
    heights = spread([value for value, _, _ in ordered], apart, low, high)
    margin = right + 0.06 * (right - left)
    for (value, arm, last), height in zip(ordered, heights, strict=True):
        _, ink, _ = looks[arm]
        # Data are in the arm's ink; what only leads to its name is not.
        axes.plot([last, right, margin], [value, height, height], color=MUTED, linewidth=0.4, zorder=0.9)
        weight = "bold" if arm == reference else "normal"
        axes.annotate(
            arm,
            (margin, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            fontweight=weight,
            color=ink,
            annotation_clip=False,
        )
    axes.set(xlim=(left, margin), ylim=(low, high))
