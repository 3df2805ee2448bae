"""Images with what the model says of them and where it looked, as pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fedderm.batches import to_input
from fedderm.predictor import Prediction, Predictor
from fedderm.saliency import ROLLOUT, HeatMap, heat_maps
from fedderm.whole_file import write_whole
from sites.images import Pixels

SIDE: Final = 384
"""Pixels a side of the pictures, whatever the model sees: for the eye, which cannot read 112."""
COLOURS: Final = "viridis"
"""From blue-violet to yellow: no colour of skin, even for the colour-blind, and lighter means more."""
_OPAQUE: Final = 0.65


@dataclass(frozen=True)
class Picture:
    """One picture of one image: as the model saw it, or under a heat map."""

    name: str
    """What it shows, for its file's name and for the page."""
    file: str
    pixels: Pixels
    heat: HeatMap | None


@dataclass(frozen=True)
class Explanation:
    """What the model says of one image, and its pictures: the image first, then a map each."""

    prediction: Prediction
    pictures: list[Picture]


def explain(predictor: Predictor, image: Path, prefix: str) -> Explanation:
    """Return the explanation of one image file; raises ImageUnreadable where it is none.

    Files are named after ``prefix``. For a malignant decision the likeliest class is explained, too.
    """
    whole = predictor.pixels(image)
    square = predictor.square(whole)
    prediction = predictor.predict_square(image, square)
    likeliest = next(iter(prediction.differential), None)
    inputs = to_input(square[None].copy(), torch.device("cpu"))
    maps = heat_maps(predictor.single("fedderm explain"), inputs, predictor.views, likeliest)
    seen = predictor.square(whole, SIDE)
    pictures = [Picture("image", f"{prefix}.image.png", seen, None)]
    for one in maps:
        name = _name(one)
        file = f"{prefix}.{name.replace(' ', '-').replace(',', '')}.png"
        pictures.append(Picture(name, file, overlay(seen, one.heat), one))
    return Explanation(prediction, pictures)


def _name(heat: HeatMap) -> str:
    if heat.method == ROLLOUT:
        return f"{ROLLOUT}, {heat.about}" if heat.about else ROLLOUT
    return heat.about


def overlay(pixels: Pixels, heat: npt.NDArray[np.float32]) -> Pixels:
    """Return ``pixels`` (H, W, 3) under a heat map (S, S): the stronger a place, the less of it shows."""
    size = (pixels.shape[1], pixels.shape[0])
    larger = Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(larger), 0, 1)[..., None]
    colours = matplotlib.colormaps[COLOURS](strength[..., 0])[..., :3] * 255
    opaque = _OPAQUE * strength
    mixed: Pixels = np.rint(pixels * (1 - opaque) + colours * opaque).astype(np.uint8)
    return mixed


def encoded(pixels: Pixels, kind: str) -> bytes:
    """Return an image file's bytes: ``PNG``, or ``JPEG`` where size matters more than every pixel."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=88)
    return buffer.getvalue()


def write_pictures(folder: Path, explanation: Explanation) -> None:
    """Write the pictures as PNG files. Raises OSError where the disk refuses."""
    for picture in explanation.pictures:
        write_whole(folder / picture.file, encoded(picture.pixels, "PNG"))


def prefixes(images: list[Path]) -> Iterator[str]:
    """Yield a name for each image's files: its own without suffix, numbered where that is taken."""
    taken: set[str] = set()
    for image in images:
        name = next(
            one
            for one in (image.stem if n == 1 else f"{image.stem}-{n}" for n in count(1))
            if one.lower() not in taken  # some file systems tell no cases apart
        )
        taken.add(name.lower())
        yield name
