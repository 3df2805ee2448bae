"""The explorer's drawings: malignant lesions above the line, benign below, a threshold between; plain SVG.

Both kinds have a scale of their own, for at a prevalence of 1 % one could not be seen beside the other.
Position and fill tell them apart, not colour alone. ``explorer.js.md`` moves the threshold.
"""

from typing import Final

import numpy as np
from markupsafe import Markup

from fedderm.evaluation.counts import BIN_CENTRES, UNITS, Counts, bin_of
from fedderm.evaluation.curves import edge_probabilities
from fedderm.evaluation.documents import Unit
from fedderm.evaluation.scores import Floats
from fedderm.report.explorer import Explorer, ExplorerRow

WIDTH, LEFT, RIGHT = 320, 6, 314
TOP, MIDDLE, BOTTOM = 16, 74, 124
HEIGHT: Final = 146
BARS: Final = 44
TICKS: Final = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)
TICK_SPACE: Final = 36
"""Units between two labels of the axis."""


def axis_of(explorer: Explorer) -> tuple[float, float]:
    """Return the logits at which the drawings begin and end: all but a five-hundredth of the images."""
    pooled = sum((row.test for row in explorer.sites), Counts.zero()).histograms("image").sum(axis=0)
    share = np.cumsum(pooled) / pooled.sum()
    low, high = (float(BIN_CENTRES[np.searchsorted(share, part)]) for part in (0.002, 0.998))
    clipped = float(np.clip(explorer.threshold, BIN_CENTRES[0], BIN_CENTRES[-1]))
    return min(low, clipped) - 0.25, max(high, clipped) + 0.25


def histograms_of(explorer: Explorer) -> dict[str, Markup]:
    """Return every site's drawing, one layer for lesions and one for images."""
    axis = axis_of(explorer)
    ticks = _ticks(explorer, axis)
    return {row.name: _drawing(explorer, row, axis, ticks) for row in explorer.sites}


def place(logit: float, axis: tuple[float, float]) -> float:
    """Return where a logit lies on the drawing; its edge for one beyond."""
    share = (logit - axis[0]) / (axis[1] - axis[0])
    return LEFT + (RIGHT - LEFT) * min(max(share, 0.0), 1.0)


def _drawing(explorer: Explorer, row: ExplorerRow, axis: tuple[float, float], ticks: str) -> Markup:
    cut = place(explorer.threshold, axis)
    certificate = explorer.certificate_of(row)
    certified = certificate is not None and certificate[1].certified
    reach = place(certificate[0], axis) - LEFT if certificate is not None and certified else 0
    layers = "".join(
        f'<g data-unit="{unit}"{"" if unit == "lesion" else " hidden"}>{_bars(row.test, unit, axis)}</g>'
        for unit in reversed(UNITS)
    )
    return Markup(
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">'
        f'<rect class="referred" x="{cut:.1f}" y="{TOP}" width="{RIGHT - cut:.1f}" height="{BOTTOM - TOP}"/>'
        f'<rect class="certified" x="{LEFT}" y="3" width="{reach:.1f}" height="5"/>{layers}'
        f'<line class="base" x1="{LEFT}" x2="{RIGHT}" y1="{MIDDLE}" y2="{MIDDLE}"/>{ticks}'
        f'<line class="cut" x1="{cut:.1f}" x2="{cut:.1f}" y1="0" y2="{BOTTOM + 6}"/></svg>'
    )


def _bars(counts: Counts, unit: Unit, axis: tuple[float, float]) -> str:
    edges = np.linspace(*axis, BARS + 1)
    bar = np.clip(np.searchsorted(edges, BIN_CENTRES, side="right") - 1, 0, BARS - 1)
    benign, malignant = (
        np.bincount(bar, weights=one, minlength=BARS).astype(np.float64)
        for one in counts.histograms(unit).astype(np.float64)
    )
    up = _outline(malignant, MIDDLE, MIDDLE - TOP - 4, upwards=True)
    down = _outline(benign, MIDDLE, BOTTOM - MIDDLE - 4, upwards=False)
    return f'<path class="malignant" d="{up}"/><path class="benign" d="{down}"/>'


def _outline(heights: Floats, base: float, room: float, *, upwards: bool) -> str:
    """Return the steps of a histogram as one closed path."""
    scale = (-room if upwards else room) / max(float(heights.max()), 1.0)
    step = (RIGHT - LEFT) / len(heights)
    parts = [f"M{LEFT} {base}"]
    for index, height in enumerate(heights.tolist()):
        parts.append(f"V{base + scale * height:.1f}H{LEFT + step * (index + 1):.1f}")
    return "".join([*parts, f"V{base}Z"])


def _ticks(explorer: Explorer, axis: tuple[float, float]) -> str:
    """Return the axis: probabilities of the federation's calibration, for nobody thinks in logits."""
    p = edge_probabilities(explorer.federation)
    first, last = int(bin_of(axis[0])), int(bin_of(axis[1]))
    drawn, taken = [], -float(TICK_SPACE)
    for tick in TICKS:
        index = int(np.searchsorted(p, tick))
        if not first < index < last:
            continue
        x = place(float(BIN_CENTRES[index]), axis)
        if x - taken >= TICK_SPACE and LEFT + 12 < x < RIGHT - 12:
            taken = x
            drawn.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{BOTTOM}" y2="{BOTTOM + 4}"/>')
            drawn.append(f'<text x="{x:.1f}" y="{BOTTOM + 17}">{100 * tick:g} %</text>')
    return "".join(drawn)
