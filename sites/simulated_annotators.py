"""Annotators of a simulated centre: they see the patterns that were painted, and err at known rates."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from PIL import Image

from sites.diagnoses import BCC_PATTERNS

PAINTED: Final = {
    "pigment_network": ("typical_network", "atypical_network"),
    "ulceration": ("ulceration",),
    "ovoid_nests": ("ovoid_nests",),
    "multiple_globules": ("multiple_globules",),
    "maple_leaf_areas": ("leaf_like_areas",),
    "spoke_wheel_areas": ("spoke_wheel",),
    "arborizing_telangiectasia": ("arborizing_vessels",),
}
"""Pattern to the structures of the generator (sites.lesions) that show it."""
SENSITIVITY: Final = (0.60, 0.95)
SPECIFICITY: Final = (0.85, 0.98)
"""Ranges from which each annotator's rates are drawn, pattern by pattern (a choice: published dermatologists
agree on them from poorly to well)."""
SEEN: Final = 0.8
"""Chance that an annotator judges an image."""
SHOWN: Final = 0.001
"""A pattern is present where its mask covers this fraction of the image or more."""


def pattern_mask(folder: Path, image_id: str, pattern: str) -> np.ndarray | None:
    """Return where ``pattern`` lies in an image, (H, W) of bool; None where it was not painted."""
    files = [folder / f"{image_id}_{name}.png" for name in PAINTED[pattern]]
    masks = [np.asarray(Image.open(file)).astype(bool) for file in files if file.is_file()]
    return np.logical_or.reduce(masks) if masks else None


def painted_patterns(folder: Path, image_ids: list[str]) -> pd.DataFrame:
    """Return the truth: image_id and, for each pattern, 1 where it shows and 0 where not."""
    rows = []
    for name in image_ids:
        masks = (pattern_mask(folder, name, pattern) for pattern in BCC_PATTERNS)
        rows.append([name, *(int(mask is not None and mask.mean() >= SHOWN) for mask in masks)])
    return pd.DataFrame(rows, columns=["image_id", *BCC_PATTERNS])


def annotate(
    truth: pd.DataFrame, annotators: int, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the annotation table of ``annotators`` (sites.annotations), and their rates.

    Rates: annotator, pattern, sensitivity, specificity.
    """
    labels = truth[list(BCC_PATTERNS)].to_numpy()
    tables, rates = [], []
    for number in range(1, annotators + 1):
        name = f"annotator_{number}"
        sensitivity, specificity = (
            rng.uniform(*ends, len(BCC_PATTERNS)) for ends in (SENSITIVITY, SPECIFICITY)
        )
        says = rng.random(labels.shape) < np.where(labels == 1, sensitivity, 1 - specificity)
        table = pd.DataFrame(says.astype(int), columns=list(BCC_PATTERNS))
        table.insert(0, "image_id", truth["image_id"].to_numpy())
        table.insert(1, "annotator", name)
        tables.append(table[rng.random(len(table)) < SEEN])
        rates += [
            (name, *one) for one in zip(BCC_PATTERNS, sensitivity.round(4), specificity.round(4), strict=True)
        ]
    told = pd.DataFrame(rates, columns=["annotator", "pattern", "sensitivity", "specificity"])
    return pd.concat(tables, ignore_index=True), told
