"""What lies between a lens and a lesion: hair, ruler, gel bubbles, ink, a circular field, framing.

Images are ``(H, W, 3)`` floats in 0..1; sizes are fractions of the shorter side, so that an artefact looks
the same at every resolution. Every function returns a new image and draws only from the generator it is
given.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

Pixels = NDArray[np.float32]

# Thin shapes are drawn this much larger and shrunk, since Pillow's lines are not anti-aliased.
_OVERSAMPLING = 2


def zoomed(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Return ``image`` magnified about its centre, same shape; below 1 the frame is filled with mirrored
    skin, or with black where it already has a black corner."""
    if factor == 1:
        return image
    height, width = image.shape[:2]
    if factor < 1:
        down, across = (round(side * (1 / factor - 1) / 2) for side in (height, width))
        # Where the field of view ends within the frame, only black lies beyond it.
        beyond: Literal["constant", "symmetric"] = "constant" if _has_black_corner(image) else "symmetric"
        image = np.pad(image, ((down, down), (across, across), (0, 0)), mode=beyond)
    tall, wide = image.shape[:2]
    half_height, half_width = (height / factor / 2, width / factor / 2)
    box = (
        max(0.0, wide / 2 - half_width),
        max(0.0, tall / 2 - half_height),
        min(float(wide), wide / 2 + half_width),
        min(float(tall), tall / 2 + half_height),
    )
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box=box))


def vignette(shape: tuple[int, ...], strength: float) -> Pixels:
    """Return factors ``(H, W)``: 1 in the centre, ``1 - strength`` in the corners."""
    return (1 - strength * _radius(shape) ** 2).astype(np.float32)


def circular_field(shape: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    """Return factors ``(H, W)``: 1 inside a circle, 0 in the corners outside it, over a soft edge."""
    radius = rng.uniform(0.78, 0.92)
    edge = rng.uniform(0.01, 0.04)
    return np.clip((radius - _radius(shape)) / edge, 0, 1).astype(np.float32)


def hair(image: Pixels, rng: np.random.Generator, strands: int) -> Pixels:
    """Return ``image`` under curved hairs, mostly dark, some of them light."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    cover, draw = _canvas(height, width)
    combed = rng.uniform(0, np.pi)
    coarse = rng.uniform(0.6, 1.6)
    for _ in range(strands):
        angle = combed + rng.normal(0, 0.5)
        length = rng.uniform(0.3, 1.1) * shorter
        bend = rng.normal(0, 0.25) * length
        middle = rng.uniform((0.0, 0.0), (width, height))
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        t = np.linspace(-1, 1, 14)[:, None]
        points = (middle + t * along * length / 2 + (1 - t**2) * across * bend) * _OVERSAMPLING
        thick = coarse * rng.uniform(0.004, 0.010) * shorter * _OVERSAMPLING
        draw.line([(x, y) for x, y in points], fill=int(rng.uniform(140, 255)), width=max(1, round(thick)))
    alpha = _shrunk(cover, width, height)
    colour = np.array([0.72, 0.66, 0.58]) if rng.random() < 0.12 else np.array([0.16, 0.11, 0.09])
    return _over(image, colour * rng.uniform(0.8, 1.3), 0.85 * alpha)


def ruler(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return ``image`` with the tick marks of a millimetre scale near one edge."""
    height, width = image.shape[:2]
    cover, draw = _canvas(height, width)
    upright = rng.random() < 0.5
    far = rng.random() < 0.6
    long_side, short_side = (height, width) if upright else (width, height)
    margin = rng.uniform(0.01, 0.10) * short_side
    pitch = rng.uniform(0.03, 0.06) * min(height, width)
    tick = rng.uniform(0.025, 0.05) * min(height, width)
    thick = max(1, round(0.006 * min(height, width) * _OVERSAMPLING))
    for i, position in enumerate(np.arange(rng.uniform(0, pitch), long_side, pitch)):
        reach = tick * (1.8 if i % 10 == 0 else 1.35 if i % 5 == 0 else 1.0)
        near, end = (short_side - margin, short_side - margin - reach) if far else (margin, margin + reach)
        ends = ((near, position), (end, position)) if upright else ((position, near), (position, end))
        draw.line([(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in ends], fill=230, width=thick)
    return _over(image, np.array([0.12, 0.12, 0.13]), _shrunk(cover, width, height))


def bubbles(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return ``image`` under gel with air bubbles: bright rings with a darker floor."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    light = np.zeros((height, width), np.float32)
    at_edge = rng.random() < 0.6
    for _ in range(int(rng.integers(3, 16))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if at_edge:
            y = (
                abs(rng.normal(0, 0.1)) * height
                if rng.random() < 0.5
                else (1 - abs(rng.normal(0, 0.1))) * height
            )
        radius = rng.gamma(2.0, 0.012) * shorter + 0.012 * shorter
        distance = np.hypot(columns - x, rows - y) / radius
        ring = np.exp(-(((distance - 1) / 0.22) ** 2))
        glint = np.exp(
            -((np.hypot(columns - x + 0.35 * radius, rows - y + 0.35 * radius) / (0.3 * radius)) ** 2)
        )
        light += 0.22 * ring + 0.4 * glint - 0.06 * (distance < 1)
    return np.asarray(np.clip(image + np.clip(light, -0.2, 0.7)[..., None], 0, 1), np.float32)


def ink(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return ``image`` with a surgical pen's stroke (violet or blue) beside the lesion."""
    height, width = image.shape[:2]
    cover, draw = _canvas(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    arc = angle + np.linspace(0, rng.uniform(0.4, 1.5), 24)
    reach = rng.uniform(0.85, 1.02)
    points = [
        (
            width * _OVERSAMPLING * (0.5 + 0.5 * reach * np.cos(a)),
            height * _OVERSAMPLING * (0.5 + 0.5 * reach * np.sin(a)),
        )
        for a in arc
    ]
    thick = rng.uniform(0.03, 0.08) * min(height, width) * _OVERSAMPLING
    draw.line(points, fill=255, width=max(2, round(thick)), joint="curve")
    alpha = gaussian_filter(_shrunk(cover, width, height), 0.006 * min(height, width))
    streaks = gaussian_filter(rng.random((height, width)), 1.2).astype(np.float32)
    streaks = (streaks - streaks.min()) / (np.ptp(streaks) + 1e-6)
    colour = np.array([0.38, 0.26, 0.62]) if rng.random() < 0.6 else np.array([0.20, 0.32, 0.62])
    return _over(image, colour, alpha * (0.45 + 0.45 * streaks))


def _radius(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return each pixel's distance from the centre; 1 in the corners."""
    height, width = shape[:2]
    y = (np.arange(height) + 0.5 - height / 2)[:, None]
    x = (np.arange(width) + 0.5 - width / 2)[None, :]
    return np.asarray(np.hypot(x, y) / np.hypot(width / 2, height / 2))


def _has_black_corner(image: NDArray[np.uint8]) -> bool:
    side = max(1, min(image.shape[:2]) // 20)
    ends = (slice(None, side), slice(-side, None))
    corners = (image[rows, columns] for rows in ends for columns in ends)
    return any(corner.mean() < 25 for corner in corners)


def _canvas(height: int, width: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("L", (width * _OVERSAMPLING, height * _OVERSAMPLING))
    return canvas, ImageDraw.Draw(canvas)


def _shrunk(canvas: Image.Image, width: int, height: int) -> Pixels:
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255.0


def _over(image: Pixels, colour: NDArray[np.float64], alpha: Pixels) -> Pixels:
    """Return ``colour`` laid over ``image`` with opacity ``alpha`` ``(H, W)``."""
    opacity = alpha[..., None]
    return (image * (1 - opacity) + np.clip(colour, 0, 1).astype(np.float32) * opacity).astype(np.float32)
