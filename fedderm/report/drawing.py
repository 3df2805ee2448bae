"""matplotlib as a draughtsman of inline SVG that takes its colours and its typeface from the page.

Figures are drawn in *ink names*, not colours: each is a sentinel colour that becomes a CSS variable in the
SVG, so that one figure serves the light theme, the dark theme and print.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK, MUTED, GRID, TRAIN, HELD_OUT, PAPER, BEFORE, AFTER, FAINT = (f"#01020{digit}" for digit in range(9))
_VARIABLE = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--rule",
    TRAIN: "--train",
    HELD_OUT: "--held-out",
    PAPER: "--paper",
    BEFORE: "--before",
    AFTER: "--after",
    FAINT: "--faint",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedderm",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


def ink_of(role: str) -> str:
    """Return the ink of a site's role."""
    return HELD_OUT if role == "held-out" else TRAIN


@contextmanager
def canvas(width: float, height: float, columns: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure of ``width`` by ``height`` inches with its axes side by side, in the report's style."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        engine = figure.get_layout_engine()
        if isinstance(engine, ConstrainedLayoutEngine):
            engine.set(w_pad=0.02, h_pad=0.02, wspace=0.05)
        FigureCanvasSVG(figure)
        yield figure, [figure.add_subplot(1, columns, column + 1) for column in range(columns)]


def as_svg(figure: Figure, name: str, description: str) -> Markup:
    """Return the figure as inline SVG.

    ``name`` keeps its ids apart from other figures', ``description`` is what a screen reader says.
    Call it inside ``canvas``: the style governs the writing too.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    box = re.search(r'viewBox="([^"]+)"', text)
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font-family:[^;\"]*", "font-family: var(--sans)", body)
    body = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 var(--sans)", body)
    for sentinel, variable in _VARIABLE.items():
        body = body.replace(sentinel, f"var({variable})")
    opening = f'<svg viewBox="{box.group(1) if box else ""}" role="img" aria-label="{escape(description)}">'
    return Markup(opening + re.sub(r"\n\s*", "\n", body) + "</svg>")
