"""How a lesion is photographed: one frame of a larger canvas, and the light it is taken in."""

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sites.pigment import Mask

ASPECT: Final = 4 / 3
"""Width over height, as HAM10000's images."""
CANVAS: Final = 1.9
"""A canvas's side in frame heights: room for a frame that is turned and shifted."""

_Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Frame:
    """A turned, shifted and enlarged window on a square canvas."""

    height: int
    width: int
    margin: int
    """Pixels of mirrored skin round the canvas, for windows that reach over its edge."""
    matrix: _Affine

    @classmethod
    def draw(cls, side: int, size: int, rng: np.random.Generator, first: bool) -> Self:
        """Return a window ``size`` high on a canvas of ``side`` pixels; later ones wander more than the
        first."""
        height, width = size, round(size * ASPECT)
        enlarged = max(0.75, math.exp(rng.normal(0, 0.10 if first else 0.20)))
        angle = rng.uniform(0, 2 * np.pi) if first else rng.normal(0, 0.5)
        dx, dy = rng.normal(0, (0.03 if first else 0.05) * size, 2)
        margin = round(0.2 * side)
        cos, sin = math.cos(angle) / enlarged, math.sin(angle) / enlarged
        left = margin + side / 2 + dx - cos * width / 2 + sin * height / 2
        top = margin + side / 2 + dy - sin * width / 2 - cos * height / 2
        return cls(height, width, margin, (cos, -sin, left, sin, cos, top))

    def cut(
        self, plane: NDArray[np.uint8], how: Image.Resampling = Image.Resampling.BICUBIC
    ) -> NDArray[np.uint8]:
        """Return the window's pixels of ``plane`` ``(side, side)`` or ``(side, side, 3)``."""
        pad = ((self.margin, self.margin),) * 2 + ((0, 0),) * (plane.ndim - 2)
        larger = Image.fromarray(np.pad(plane, pad, mode="symmetric"))
        return np.asarray(
            larger.transform((self.width, self.height), Image.Transform.AFFINE, self.matrix, how)
        )

    def cut_mask(self, mask: Mask) -> Mask:
        """Return the window's part of a mask."""
        return self.cut(mask.astype(np.uint8), Image.Resampling.NEAREST) > 0


def lit(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return ``image`` under a dermatoscope's light: focus, brightness, white balance, a slight gradient,
    grain."""
    height, width = image.shape[:2]
    focus = ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0) * height / 160)
    image = np.asarray(Image.fromarray(image).filter(focus))
    across = np.linspace(-1, 1, width) * rng.normal(0, 0.02)
    down = np.linspace(-1, 1, height)[:, None] * rng.normal(0, 0.02)
    gains = np.exp(rng.normal(0, 0.05) + rng.normal(0, (0.03, 0.02, 0.035)))
    light = image * (gains * (1 + across + down)[..., None]).astype(np.float32)
    light += rng.normal(0, 1.5, (height, width, 1)).astype(np.float32)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)
