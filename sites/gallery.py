"""Contact sheets: what a site's images look like, for the report of a simulation."""

from typing import Final

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from sites.cache import PixelCache
from sites.diagnoses import CLASSES

_SMALLEST_TILE: Final = 96  # pixels; below, captions do not fit
_CAPTION: Final = 16
_GAP: Final = 4


def contact_sheet(cache: PixelCache, columns: int = 8, rows: int = 3, seed: int = 0) -> Image.Image:
    """Return an RGB sheet of ``columns * rows`` captioned images, benign first, then malignant.

    Half are malignant, fewer where the site has fewer (the other kind then fills up, and tiles stay white
    where there are no more images). One image a lesion while there are enough lesions. The same cache and
    seed give the same sheet.
    """
    chosen = _choose(cache.table, columns * rows, seed)
    tile = max(cache.settings.image_size, _SMALLEST_TILE)
    width, height = tile + _GAP, tile + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    for place, row in enumerate(chosen):
        x, y = _GAP + place % columns * width, _GAP + place // columns * height
        square = Image.fromarray(np.asarray(cache.pixels[row]))
        sheet.paste(square.resize((tile, tile), Image.Resampling.BICUBIC), (x, y))
        draw.text((x, y + tile + 1), _caption(cache.table, row), fill="black", font=font)
    return sheet


def _caption(table: pd.DataFrame, row: int) -> str:
    index, diagnosis = int(table["class_index"].iloc[row]), str(table["diagnosis"].iloc[row])
    name = CLASSES[index]
    return name if diagnosis.casefold() == name.casefold() else f"{name} ({diagnosis})"


def _choose(table: pd.DataFrame, wanted: int, seed: int) -> list[int]:
    """Return row numbers, benign before malignant."""
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    shuffled = generator.permutation(len(table))
    repeated = table["lesion_id"].iloc[shuffled].duplicated().to_numpy()
    order = np.concatenate([shuffled[~repeated], shuffled[repeated]])
    is_malignant = (table["class_index"] > 0).to_numpy()[order]
    benign, malignant = order[~is_malignant], order[is_malignant]
    half = min(len(malignant), max(wanted // 2, wanted - len(benign)))
    return [int(row) for row in (*benign[: wanted - half], *malignant[:half])]
