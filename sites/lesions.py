"""A procedural generator of dermoscopic images: skin, a lesion on it, and how it is framed.

Everything about a lesion is painted once, on a canvas larger than a frame; several images of one lesion are
frames of the same canvas that differ in zoom, rotation, shift and light, as follow-up photographs do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sites import skin, structures, surface
from sites.criteria import CRITERIA, Criteria
from sites.framing import ASPECT, CANVAS, Frame, lit
from sites.pigment import Canvas, Mask, Plane, noise, step

Painter = Callable[[Canvas, np.random.Generator, float], None]

# In the order of painting: pigment first, then vessels, then what lies on the surface.
PAINTERS: Final[dict[str, Painter]] = {
    "network": structures.network,
    "globules": structures.globules,
    "fissures": surface.fissures,
    "blotch": structures.blotch,
    "streaks": structures.streaks,
    "strawberry": surface.strawberry,
    "regression": structures.regression,
    "central_white_patch": surface.central_white_patch,
    "leaf_like_areas": structures.leaf_like_areas,
    "ovoid_nests": structures.ovoid_nests,
    "spoke_wheel": structures.spoke_wheel,
    "blue_white_veil": structures.blue_white_veil,
    "lacunae": surface.lacunae,
    "dotted_vessels": surface.dotted_vessels,
    "arborizing_vessels": surface.arborizing_vessels,
    "ulceration": surface.ulceration,
    "comedo_openings": surface.comedo_openings,
    "milia_like_cysts": surface.milia_like_cysts,
    "white_circles": surface.white_circles,
    "keratin_mass": surface.keratin_mass,
    "scale": surface.scale,
    "shiny_white_streaks": surface.shiny_white_streaks,
}


@dataclass(frozen=True)
class RenderedLesion:
    """One image of a lesion and the truth behind it; all arrays share the image's height and width."""

    image: NDArray[np.uint8]
    lesion_mask: Mask
    pattern_masks: dict[str, Mask]
    """Where each structure that is present lies, by its dermoscopic name."""
    diagnosis: str
    skin_type: str


def render(
    diagnosis: str, rng: np.random.Generator, size: int = 160, skin_type: str = "II", age: float | None = None
) -> RenderedLesion:
    """Return one image, ``size`` pixels high and a third wider, of a new lesion; see ``render_views``."""
    return render_views(diagnosis, rng, 1, size, skin_type, age)[0]


def render_views(
    diagnosis: str,
    rng: np.random.Generator,
    views: int,
    size: int = 160,
    skin_type: str = "II",
    age: float | None = None,
    masks: bool = True,
) -> list[RenderedLesion]:
    """Return ``views`` images of one new lesion, differently framed.

    ``age`` (years; the diagnosis's usual age where None) decides the skin's sun damage. Without ``masks``,
    which cost time, the pattern masks are left out; the images are the same. The same generator state gives
    the same images. Raises ValueError for a diagnosis or skin type that is not known, or an image smaller
    than 32 pixels.
    """
    if diagnosis not in CRITERIA:
        raise ValueError(f"no generator for diagnosis {diagnosis!r}; there are {', '.join(CRITERIA)}")
    if skin_type not in skin.TONE:
        raise ValueError(f"skin type {skin_type!r} is not one of {', '.join(skin.TONE)}")
    if size < 32:
        raise ValueError(f"an image of {size} pixels is too small to show a lesion; use 32 or more")
    criteria = CRITERIA[diagnosis]
    body, background, framing = rng.spawn(3)
    atypia = float(body.beta(*criteria.atypia))
    years = criteria.age[0] if age is None else age
    canvas = _shaped_canvas(criteria, atypia, body, size)
    skin.paint(canvas, background, skin_type, years)
    _paint_body(canvas, criteria, atypia, body)
    _paint_structures(canvas, criteria, atypia, body)
    colours = (np.clip(canvas.colours(), 0, 1) * 255).astype(np.uint8)
    frames = (Frame.draw(canvas.side, size, framing, first=view == 0) for view in range(views))
    return [
        RenderedLesion(
            image=lit(frame.cut(colours), framing),
            lesion_mask=frame.cut_mask(canvas.inside),
            pattern_masks={n: frame.cut_mask(m) for n, m in canvas.patterns.items()} if masks else {},
            diagnosis=diagnosis,
            skin_type=skin_type,
        )
        for frame in frames
    ]


def _between(ends: tuple[float, float], atypia: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * atypia


def _shaped_canvas(criteria: Criteria, atypia: float, rng: np.random.Generator, size: int) -> Canvas:
    """Return an empty canvas with the lesion's outline: a warped ellipse with a random Fourier contour."""
    side = round(CANVAS * size)
    area = float(np.clip(_between(criteria.area, atypia) * np.exp(rng.normal(0, 0.5)), 0.015, 0.6))
    unit = size * math.sqrt(area * ASPECT / math.pi)
    axis = (np.arange(side, dtype=np.float32) + 0.5 - side / 2) / np.float32(unit)
    x, y = np.meshgrid(axis, axis)
    roughness = _between(criteria.irregularity, atypia) * float(np.exp(rng.normal(0, 0.3)))
    level = _outline(x, y, roughness, rng)
    if rng.random() < 0.5 * roughness:
        dx, dy = structures.off_centre(rng, 1.0)
        level = np.minimum(
            level, _outline(x - dx, y - dy, roughness, rng) / np.float32(rng.uniform(0.35, 0.8))
        )
    level = level + np.float32(0.14 * roughness) * noise(rng, side, 0.30 * unit)
    level = level + np.float32(0.10 * roughness) * noise(rng, side, max(2.0, 0.11 * unit))
    melanin, blood = np.zeros((2, side, side), np.float32)
    return Canvas(side, unit, size / 160, x, y, np.clip(level, 0, None), melanin, blood)


def _outline(x: Plane, y: Plane, roughness: float, rng: np.random.Generator) -> Plane:
    """Return distance from the middle relative to the contour's radius in that direction."""
    stretch = math.exp(rng.normal(0, 0.08 + 0.25 * roughness))
    turn = rng.uniform(0, np.pi)
    cos, sin = math.cos(turn), math.sin(turn)
    along, across = (cos * x + sin * y) / stretch, (cos * y - sin * x) * stretch
    angles = np.linspace(-np.pi, np.pi, 361)
    orders = np.arange(2, 13)
    amplitudes = roughness * rng.normal(0, 0.55, orders.size) / orders**1.1
    phases = rng.uniform(0, 2 * np.pi, orders.size)
    radii = np.exp((amplitudes[:, None] * np.cos(orders[:, None] * angles + phases[:, None])).sum(0))
    # Looked up to the nearest degree: interpolating costs three times more and shows nothing.
    degrees = np.rint((np.arctan2(across, along) + np.pi) * (180 / np.pi)).astype(np.intp)
    return np.asarray(np.hypot(along, across) / radii[degrees], np.float32)


def _paint_body(canvas: Canvas, criteria: Criteria, atypia: float, rng: np.random.Generator) -> None:
    """Paint the lesion's own pigment, redness and haze."""
    side = canvas.side
    softness = _between(criteria.softness, atypia) * float(np.exp(rng.normal(0, 0.35)))
    # One side of the border may end abruptly while the other fades.
    tilt = canvas.x * np.float32(rng.normal(0, 0.35 * atypia)) + canvas.y * np.float32(
        rng.normal(0, 0.35 * atypia)
    )
    fade = np.clip(softness * np.exp(np.clip(tilt, -1, 1)), 0.06, 1.5)
    body = np.clip((1 + 0.35 * fade - canvas.level) / fade, 0, 1)
    body = np.asarray(body * body * (3 - 2 * body), np.float32)
    density = _between(criteria.pigment, atypia) * float(np.exp(rng.normal(0, criteria.pigment_spread)))
    spread = _between(criteria.variegation, atypia) * float(np.exp(rng.normal(0, 0.3)))
    lumps = noise(rng, side, 0.55 * canvas.unit) + 0.6 * noise(rng, side, 0.22 * canvas.unit)
    grain = noise(rng, side, 4.5 * canvas.scale)
    centred = np.float32(rng.normal(0.0, 0.35)) * (0.5 - np.clip(canvas.level, 0, 1.2))
    sidewise = np.float32(0.5 * atypia * rng.normal()) * canvas.x
    relief = np.exp(
        np.clip(np.float32(0.8 * spread) * lumps + centred + 0.10 * grain + spread * sidewise, -1.6, 1.1)
    )
    canvas.melanin += np.float32(density) * body * relief
    red = max(0.0, rng.normal(*criteria.erythema))
    canvas.blood += np.float32(red) * body * np.clip(1 + 0.35 * noise(rng, side, 0.35 * canvas.unit), 0.2, 2)
    halo = step(-canvas.level, -1.15, 0.7)
    canvas.blood += np.float32(max(0.0, rng.normal(0.03, 0.05))) * halo
    milky = max(0.0, rng.normal(*criteria.haze))
    patches = np.clip(0.6 + 0.5 * noise(rng, side, 0.4 * canvas.unit), 0, 1)
    canvas.cover(np.asarray(np.float32(min(milky, 0.7)) * body * patches), (0.86, 0.70, 0.74))


def _paint_structures(canvas: Canvas, criteria: Criteria, atypia: float, rng: np.random.Generator) -> None:
    # A stream for each structure: whether one is present does not change how another looks.
    for (name, painter), stream in zip(PAINTERS.items(), rng.spawn(len(PAINTERS)), strict=True):
        chance = _between(criteria.structures.get(name, (0.0, 0.0)), atypia)
        if stream.random() < chance:
            painter(canvas, stream, float(np.clip(atypia + stream.normal(0, 0.15), 0, 1)))
