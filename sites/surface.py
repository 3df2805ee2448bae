"""Dermoscopic structures of vessels and of the skin's surface: keratin, scale, ulcers, scars.

Terms and looks after Kittler et al., J Am Acad Dermatol 2016, and, for keratinising tumours, Zalaudek et
al., Br J Dermatol 2012. Each function paints one structure and records where it lies.
"""

import numpy as np

from sites.pigment import Canvas, Stencil, noise, step
from sites.structures import border_at, off_centre, scattered


def arborizing_vessels(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """Sharply focused red trunks that branch into ever finer twigs (BCC)."""
    tree = Stencil(canvas.side)
    for _trunk in range(int(rng.integers(2, 6))):
        angle = rng.uniform(0, 2 * np.pi)
        border = border_at(canvas, angle) * rng.uniform(0.6, 1.05)
        x, y = canvas.pixels_of(border * np.cos(angle), border * np.sin(angle))
        inward = angle + np.pi + rng.normal(0, 0.5)
        _branch(tree, canvas, rng, (x, y), inward, rng.uniform(1.2, 2.2), rng.uniform(0.5, 1.0), 3)
    amount = tree.plane(0.6 * canvas.scale)
    canvas.blood += np.float32(rng.uniform(0.35, 0.8)) * amount
    canvas.melanin += np.float32(0.08) * amount
    canvas.record("arborizing_vessels", amount)


def _branch(
    tree: Stencil,
    canvas: Canvas,
    rng: np.random.Generator,
    start: tuple[float, float],
    direction: float,
    width: float,
    length: float,
    forks: int,
) -> None:
    """Draw a winding vessel ``length`` lesion radii long, and its twigs."""
    points = [start]
    steps = 9
    for _ in range(steps):
        direction += rng.normal(0, 0.32)
        x, y = points[-1]
        stride = length * canvas.unit / steps
        points.append((x + stride * np.cos(direction), y + stride * np.sin(direction)))
    tree.line(points, width * canvas.scale, 0.5 + 0.5 * min(1.0, width / 1.5))
    if forks == 0 or width < 0.45:
        return
    for at in rng.choice(np.arange(2, steps + 1), int(rng.integers(1, 4)), replace=False):
        turn = rng.choice((-1, 1)) * rng.uniform(0.4, 1.1)
        _branch(tree, canvas, rng, points[at], direction + turn, 0.62 * width, 0.55 * length, forks - 1)


def dotted_vessels(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """Red dots and coiled (glomerular) vessels in clusters (SCC in situ)."""
    coils = Stencil(canvas.side)
    for _cluster in range(int(rng.integers(2, 6))):
        centre = off_centre(rng, 0.5)
        for _coil in range(int(rng.integers(8, 22))):
            x, y = canvas.pixels_of(centre[0] + rng.normal(0, 0.2), centre[1] + rng.normal(0, 0.2))
            coils.blob(
                x, y, rng.uniform(1.8, 3.6) * canvas.scale, rng.uniform(0.6, 1), rng.uniform(0, 3.2), 0.9
            )
    amount = coils.plane(0.4 * canvas.scale)
    canvas.blood += np.float32(rng.uniform(0.45, 0.85)) * amount
    canvas.record("dotted_vessels", amount)


def lacunae(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """Well-defined red, purple or black lagoons, separated by paler septa (vascular lesions)."""
    lagoons = Stencil(canvas.side)
    for x, y in scattered(canvas, rng, int(rng.integers(14, 46)), 0.92):
        across = rng.uniform(0.22, 0.5) * canvas.unit
        lagoons.blob(x, y, across, rng.uniform(0.65, 1), rng.uniform(0, np.pi), rng.uniform(0.6, 1))
    amount = lagoons.plane(1.4 * canvas.scale)
    clotted = step(noise(rng, canvas.side, 25 * canvas.scale), rng.uniform(-0.3, 2.0), 0.8)
    canvas.blood += np.float32(rng.uniform(0.3, 1.1)) * amount
    canvas.melanin += np.float32(rng.uniform(0.1, 1.1)) * amount * clotted
    canvas.record("red_lacunae", amount)


def ulceration(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """One or several eroded areas: dark red to orange-brown, crusted, with a ragged edge."""
    amount = np.zeros_like(canvas.level)
    for _ulcer in range(int(rng.integers(1, 4))):
        x, y = off_centre(rng, 0.4)
        distance = np.hypot(canvas.x - x, canvas.y - y) / rng.uniform(0.10, 0.38)
        amount = np.maximum(
            amount, step(-(distance + 0.25 * noise(rng, canvas.side, 7 * canvas.scale)), -1.0, 0.35)
        )
    crusted = rng.random()
    canvas.blood += np.float32(rng.uniform(0.5, 1.0)) * amount
    canvas.melanin += np.float32(0.2 + 0.5 * crusted) * amount
    grain = np.clip(0.35 + 0.4 * noise(rng, canvas.side, 4 * canvas.scale), 0, 0.8)
    canvas.cover(np.asarray(amount * grain * np.float32(0.6 * crusted)), (0.72, 0.50, 0.26))
    canvas.record("ulceration", amount)


def scale(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """White to yellow flakes on the surface, with sharp torn edges."""
    flakes = noise(rng, canvas.side, 16 * canvas.scale) + 0.9 * noise(rng, canvas.side, 5 * canvas.scale)
    amount = step(flakes, rng.uniform(0.3, 1.6), 1.6) * step(-canvas.level, -0.95, 0.5)
    amount *= np.clip(0.75 + 0.25 * noise(rng, canvas.side, 3.5 * canvas.scale), 0, 1)
    yellow = rng.uniform(0, 1)
    canvas.cover(
        np.asarray(amount * np.float32(rng.uniform(0.45, 0.85))),
        (0.95, 0.92 - 0.10 * yellow, 0.92 - 0.32 * yellow),
    )
    canvas.record("scale", amount)


def keratin_mass(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """A central plug of structureless yellow-white keratin, often with blood spots (well-differentiated
    SCC)."""
    x, y = off_centre(rng, 0.12)
    distance = np.hypot(canvas.x - x, canvas.y - y) / rng.uniform(0.3, 0.6)
    amount = step(-(distance + 0.16 * noise(rng, canvas.side, 10 * canvas.scale)), -1.0, 0.7)
    mottled = np.clip(0.6 + 0.3 * noise(rng, canvas.side, 5 * canvas.scale), 0, 0.95)
    canvas.cover(np.asarray(amount * mottled), (0.84, 0.70, rng.uniform(0.52, 0.68)))
    blood = Stencil(canvas.side)
    for column, row in scattered(canvas, rng, int(rng.integers(0, 9)), 0.45):
        blood.blob(
            column, row, rng.uniform(2, 6) * canvas.scale, 0.7, rng.uniform(0, 3), rng.uniform(0.5, 0.9)
        )
    canvas.cover(blood.plane(0.7 * canvas.scale), (0.30, 0.10, 0.10))
    canvas.record("keratin_mass", amount)


def white_circles(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """Bright white rings round keratin-filled follicles (SCC)."""
    rings, plugs = Stencil(canvas.side), Stencil(canvas.side)
    for x, y in scattered(canvas, rng, int(rng.integers(5, 20)), 0.85):
        across = rng.uniform(3.5, 7) * canvas.scale
        rings.blob(x, y, across, 1, 0, 0.9)
        plugs.blob(x, y, 0.55 * across, 1, 0, 1)
    inner = plugs.plane(0.4 * canvas.scale)
    amount = np.asarray(np.clip(rings.plane(0.9 * canvas.scale) - inner, 0, 1), np.float32)
    canvas.cover(0.5 * amount, (0.95, 0.90, 0.89))
    canvas.cover(0.5 * inner, (0.72, 0.50, 0.30))
    canvas.record("white_circles", np.asarray(amount, np.float32))


def strawberry(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """A red pseudo-network round pale follicles, each with a yellow-white plug (actinic keratosis)."""
    pores, plugs = Stencil(canvas.side), Stencil(canvas.side)
    for x, y in scattered(canvas, rng, int(rng.integers(45, 110)), 0.98):
        across = rng.uniform(3.5, 6.5) * canvas.scale
        pores.blob(x, y, across, 1, 0, 0.9)
        plugs.blob(x, y, 0.5 * across, 1, 0, 0.9)
    within = step(-canvas.level, -0.95, 0.25)
    amount = pores.plane(0.9 * canvas.scale)
    canvas.blood += np.float32(rng.uniform(0.25, 0.5)) * within * (1 - amount)
    canvas.cover(0.35 * amount, (0.93, 0.80, 0.72))
    canvas.cover(0.4 * plugs.plane(0.6 * canvas.scale), (0.93, 0.84, 0.72))
    canvas.record("strawberry", within)


def milia_like_cysts(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """Small round white to yellow dots that seem to shine from below (seborrhoeic keratosis)."""
    cysts = Stencil(canvas.side)
    for x, y in scattered(canvas, rng, int(rng.integers(6, 34)), 0.9):
        cysts.blob(x, y, rng.uniform(2.0, 5.0) * canvas.scale, 1, 0, rng.uniform(0.5, 1))
    amount = cysts.plane(0.8 * canvas.scale)
    canvas.cover(np.float32(rng.uniform(0.2, 0.55)) * amount, (0.93, 0.86, rng.uniform(0.66, 0.82)))
    canvas.record("milia_like_cysts", amount)


def comedo_openings(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """Round to ovoid craters with brown-black or yellow keratin (seborrhoeic keratosis)."""
    craters = Stencil(canvas.side)
    for x, y in scattered(canvas, rng, int(rng.integers(6, 30)), 0.9):
        across = rng.uniform(3.0, 7.5) * canvas.scale
        craters.blob(x, y, across, rng.uniform(0.55, 1), rng.uniform(0, np.pi), rng.uniform(0.5, 1))
    amount = craters.plane(0.8 * canvas.scale)
    canvas.cover(np.float32(rng.uniform(0.25, 0.65)) * amount, (0.33, 0.22, 0.15))
    canvas.record("comedo_openings", amount)


def fissures(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """Cerebriform gyri and sulci: a warty surface (seborrhoeic keratosis)."""
    ridge = noise(rng, canvas.side, 7 * canvas.scale) + 0.7 * noise(rng, canvas.side, 3.2 * canvas.scale)
    sulci = (1 - np.clip(np.abs(ridge) / 1.1, 0, 1)) * step(-canvas.level, -0.95, 0.15)
    canvas.melanin += np.float32(rng.uniform(0.08, 0.35)) * sulci
    gyri = np.clip(np.abs(ridge) - 0.7, 0, 1) * step(-canvas.level, -0.95, 0.15)
    canvas.cover(np.asarray(np.float32(rng.uniform(0.1, 0.4)) * gyri), (0.80, 0.76, 0.74))
    canvas.record("fissures", np.asarray(sulci, np.float32))


def central_white_patch(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """A scar-like white centre inside a delicate ring of pigment (dermatofibroma)."""
    x, y = off_centre(rng, 0.1)
    distance = np.hypot(canvas.x - x, canvas.y - y) / rng.uniform(0.25, 0.5)
    amount = step(-(distance + 0.2 * noise(rng, canvas.side, 8 * canvas.scale)), -0.9, 1.0)
    canvas.melanin *= 1 - np.float32(0.8) * amount
    canvas.cover(amount * np.float32(rng.uniform(0.25, 0.65)), (0.93, 0.83, 0.84))
    canvas.record("central_white_patch", amount)


def shiny_white_streaks(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """Short bright lines, mostly parallel or at right angles (melanoma, BCC, dermatofibroma)."""
    lines = Stencil(canvas.side)
    angle = rng.uniform(0, np.pi)
    for x, y in scattered(canvas, rng, int(rng.integers(8, 26)), 0.8):
        turn = angle + (np.pi / 2 if rng.random() < 0.35 else 0.0) + rng.normal(0, 0.1)
        half = rng.uniform(3, 8) * canvas.scale
        ends = [
            (x - half * np.cos(turn), y - half * np.sin(turn)),
            (x + half * np.cos(turn), y + half * np.sin(turn)),
        ]
        lines.line(ends, rng.uniform(0.8, 1.6) * canvas.scale, rng.uniform(0.5, 1))
    amount = lines.plane(0.4 * canvas.scale)
    canvas.cover(0.6 * amount, (0.95, 0.88, 0.90))
    canvas.record("shiny_white_streaks", amount)
