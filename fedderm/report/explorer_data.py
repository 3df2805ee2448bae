"""What the page's script reads: every site's histograms, the bins' edges and the calibrations at them."""

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from scipy.stats import norm

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.counts import BIN_EDGES, UNITS
from fedderm.evaluation.curves import edge_probabilities
from fedderm.evaluation.intervals import LEVEL
from fedderm.evaluation.scores import Ints
from fedderm.report.explorer import Explorer, ExplorerRow

PLACES: Final = 6
"""Decimals of the probabilities that the page holds; they decide net benefit to the fifth."""


def page_data(explorer: Explorer, axis: tuple[float, float]) -> Markup:
    """Return the counts, edges and maps as JSON that no HTML parser can leave.

    ``axis``: the logits at which the drawings begin and end.
    """
    maps: list[CalibrationMap] = [explorer.federation]
    for row in explorer.sites:
        if row.map not in maps:
            maps.append(row.map)
    names = [row.name for row in explorer.sites]
    content = {
        "edges": BIN_EDGES.tolist(),
        "maps": [np.round(edge_probabilities(one), PLACES).tolist() for one in maps],
        "rows": [_row_data(row, maps, names) for row in explorer.rows],
        "start": explorer.steps[2],
        "target": explorer.target,
        "confidence": explorer.confidence,
        "z": float(norm.ppf((1 + LEVEL) / 2)),
        "axis": list(axis),
    }
    return Markup(json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"))


def _row_data(row: ExplorerRow, maps: Sequence[CalibrationMap], names: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": row.name,
        "role": row.role,
        "map": maps.index(row.map),
        "min_cell": row.min_cell,
        "calibration": None if row.calibration is None else _packed(row.calibration.histograms("lesion")[1]),
    }
    if row.members:
        return told | {"members": [names.index(member) for member in row.members]}
    return told | {"test": {unit: [_packed(one) for one in row.test.histograms(unit)] for unit in UNITS}}


def _packed(histogram: Ints) -> list[int]:
    """Return ``[gap, n, gap, n, ...]`` of the non-empty bins, gaps counted from the last one."""
    bins = np.flatnonzero(histogram)
    return np.stack([np.diff(bins, prepend=0), histogram[bins]], axis=1).ravel().tolist()
