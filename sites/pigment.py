"""Layers of skin and the light that comes back from them: the canvas that the generator paints on.

Melanin and blood absorb (Beer-Lambert: ``exp(-density * absorbance)`` for red, green and blue); what
scatters or covers (keratin, scars, crusts, pigment so deep that it looks blue) is laid over with an
opacity.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]
Colour = tuple[float, float, float]

# Per unit of density, for red, green and blue: a choice, fitted by eye and by mean colours to HAM10000's
# lesions.
MELANIN_ABSORBANCE: Final = np.array([1.0, 1.70, 2.08], np.float32)
BLOOD_ABSORBANCE: Final = np.array([0.20, 1.0, 0.84], np.float32)
DERMIS: Final = np.array([0.92, 0.81, 0.86], np.float32)

_OVERSAMPLING = 2


@dataclass
class Canvas:
    """A square piece of skin, ``side`` pixels, with a lesion of mean radius ``unit`` pixels in its middle.

    ``x`` and ``y`` are lesion coordinates (1 is the mean radius), ``level`` is 0 in the lesion's middle, 1
    at its border and more outside. ``melanin`` and ``blood`` are densities, ``covers`` are (opacity,
    colour) from the lowest up; ``patterns`` says where each structure was painted.
    """

    side: int
    unit: float
    scale: float
    """Pixels of this canvas per pixel of a frame 160 high."""
    x: Plane
    y: Plane
    level: Plane
    melanin: Plane
    blood: Plane
    covers: list[tuple[Plane, Colour]] = field(default_factory=list)
    patterns: dict[str, Mask] = field(default_factory=dict)

    @property
    def inside(self) -> Mask:
        """Return the lesion's mask."""
        return self.level < 1

    def pixels_of(self, x: float, y: float) -> tuple[float, float]:
        """Return the (column, row) of lesion coordinates."""
        middle = self.side / 2
        return (middle + x * self.unit, middle + y * self.unit)

    def record(self, name: str, amount: Plane, threshold: float = 0.25) -> None:
        """Remember where a structure lies: where ``amount`` exceeds ``threshold``."""
        mask = amount > threshold
        self.patterns[name] = self.patterns[name] | mask if name in self.patterns else mask

    def cover(self, opacity: Plane, colour: Colour) -> None:
        """Lay ``colour`` over everything painted so far."""
        self.covers.append((opacity, colour))

    def colours(self) -> NDArray[np.float32]:
        """Return the light that comes back, ``(side, side, 3)`` in 0..1."""
        channels = []
        # One channel at a time: planes that fit the processor's cache are several times faster.
        for channel, dermis in enumerate(DERMIS):
            density = self.melanin * MELANIN_ABSORBANCE[channel] + self.blood * BLOOD_ABSORBANCE[channel]
            light = dermis * np.exp(-density)
            for opacity, colour in self.covers:
                light += opacity * (np.float32(colour[channel]) - light)
            channels.append(light)
        return np.stack(channels, axis=-1)


class Stencil:
    """Shapes drawn in a canvas's pixels, anti-aliased; ``plane`` gives their opacity."""

    def __init__(self, side: int) -> None:
        self.side = side
        self._image = Image.new("L", (side * _OVERSAMPLING, side * _OVERSAMPLING))
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: list[tuple[float, float]], width: float, opacity: float = 1.0) -> None:
        """Draw a polyline ``width`` pixels wide."""
        self._draw.line(
            [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points],
            fill=round(255 * min(1.0, opacity)),
            width=max(1, round(width * _OVERSAMPLING)),
        )

    def blob(
        self, x: float, y: float, across: float, aspect: float, angle: float, opacity: float = 1.0
    ) -> None:
        """Draw a filled ellipse ``across`` pixels long, ``aspect`` times as wide."""
        t = np.linspace(0, 2 * np.pi, max(8, min(24, int(across * 2))), endpoint=False)
        a, b = across / 2 * np.cos(t), across / 2 * aspect * np.sin(t)
        columns = (x + a * np.cos(angle) - b * np.sin(angle)) * _OVERSAMPLING
        rows = (y + a * np.sin(angle) + b * np.cos(angle)) * _OVERSAMPLING
        corners = list(zip(columns.tolist(), rows.tolist(), strict=True))
        self._draw.polygon(corners, fill=round(255 * min(1.0, opacity)))

    def plane(self, blur: float = 0.0) -> Plane:
        """Return the opacity ``(side, side)`` in 0..1, softened over ``blur`` pixels."""
        image = self._image.reduce(_OVERSAMPLING)
        if blur > 0:
            image = image.filter(ImageFilter.GaussianBlur(blur))
        return np.asarray(image, np.float32) / np.float32(255)


def noise(rng: np.random.Generator, side: int, wavelength: float) -> Plane:
    """Return smooth noise ``(side, side)``, mean 0 and standard deviation about 1, lumps ``wavelength``
    pixels apart."""
    cells = max(4, math.ceil(side / wavelength) + 1)
    grid = rng.standard_normal((cells, cells), dtype=np.float32)
    smooth = Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)
    # Interpolation averages neighbours and so shrinks the spread by about this much.
    return np.asarray(smooth, np.float32) * np.float32(1.35)


def step(values: Plane, threshold: float | Plane, softness: float) -> Plane:
    """Return 0 where ``values`` is below the threshold and 1 above, over a ramp ``softness`` wide."""
    return np.asarray(np.clip((values - threshold) / softness + 0.5, 0, 1), np.float32)
