"""Dermoscopic structures of pigment, painted on a canvas: network, globules, streaks, veil, regression,
nests, leaves.

Terms and looks after Kittler et al., "Standardization of terminology in dermoscopy", J Am Acad Dermatol
2016. Each function paints one structure and records where it lies.
"""

from collections.abc import Iterator

import numpy as np

from sites.pigment import Canvas, Stencil, noise, step

BLUE_GREY = (0.38, 0.36, 0.42)
MULTIPLE = 12
"""So many blue-grey globules beside ovoid nests count as multiple (a choice)."""


def scattered(
    canvas: Canvas,
    rng: np.random.Generator,
    number: int,
    reach: float = 0.9,
    centre: tuple[float, float] = (0, 0),
) -> Iterator[tuple[float, float]]:
    """Yield ``number`` pixel positions within the lesion, ``reach`` of the way to its border at most."""
    left = number
    for _ in range(8 * number):
        angle, radius = rng.uniform(0, 2 * np.pi), 1.25 * np.sqrt(rng.random())
        column, row = canvas.pixels_of(centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle))
        i, j = int(row), int(column)
        if 0 <= i < canvas.side and 0 <= j < canvas.side and canvas.level[i, j] < reach:
            yield column, row
            left -= 1
            if left == 0:
                return


def off_centre(rng: np.random.Generator, distance: float) -> tuple[float, float]:
    """Return lesion coordinates about ``distance`` from the middle, in any direction."""
    angle, radius = rng.uniform(0, 2 * np.pi), distance * rng.uniform(0.6, 1.3)
    return radius * float(np.cos(angle)), radius * float(np.sin(angle))


def network(canvas: Canvas, rng: np.random.Generator, atypia: float) -> None:
    """A mesh of brown lines; with ``atypia`` (0..1) thicker, darker, uneven and broken off at the border."""
    pitch = rng.uniform(3.2, 4.6) * canvas.scale * (1 + 0.4 * atypia * rng.random())
    lines = Stencil(canvas.side)
    reach = 1.25 * canvas.unit
    rows = np.arange(-reach, reach, pitch * 0.866)
    columns = np.arange(-reach, reach, pitch)
    middle = canvas.side / 2
    jitter = rng.normal(0, (0.12 + 0.16 * atypia) * pitch, (len(rows), len(columns), 2))
    shift = (np.arange(len(rows)) % 2 * pitch / 2)[:, None]
    px = middle + columns[None, :] + shift + jitter[..., 0]
    py = middle + rows[:, None] + jitter[..., 1]
    widths = np.clip(rng.normal(0.9 + 0.5 * atypia, 0.15 + 0.5 * atypia, px.shape), 0.5, 3) * canvas.scale
    # A triangular lattice without one vertex in three is a honeycomb: holes appear round the missing ones.
    hole = (np.arange(len(columns))[None, :] + np.where(np.arange(len(rows)) % 2, 2, 0)[:, None]) % 3 == 0
    for i in range(len(rows) - 1):
        odd = i % 2
        for j in range(1, len(columns) - 1):
            if hole[i, j]:
                continue
            for a, b in ((i, j + 1), (i + 1, j - 1 + odd), (i + 1, j + odd)):
                if not hole[a, b]:
                    lines.line([(px[i, j], py[i, j]), (px[a, b], py[a, b])], widths[i, j])
    where = step(1 - canvas.level, 0.02, 0.12 - 0.08 * atypia)
    patches = step(noise(rng, canvas.side, 28 * canvas.scale), -1.2 + 1.3 * atypia, 0.8)
    fine = np.clip(1 + 0.4 * noise(rng, canvas.side, 6 * canvas.scale), 0.2, 2)
    amount = lines.plane(0.6 * canvas.scale) * where * patches * fine
    canvas.melanin += np.float32(rng.uniform(0.12, 0.32) * (1 + 0.5 * atypia)) * amount
    canvas.record("atypical_network" if atypia > 0.5 else "typical_network", amount)


def globules(canvas: Canvas, rng: np.random.Generator, atypia: float) -> None:
    """Round brown dots and globules: even in size and spread, or (``atypia``) of all sizes, crowded to one
    side."""
    spots = Stencil(canvas.side)
    centre = off_centre(rng, 0.5 * atypia)
    for x, y in scattered(canvas, rng, int(rng.integers(18, 60)), 0.97, centre):
        across = np.clip(rng.normal(3.6, 0.5 + 1.6 * atypia), 1.5, 9) * canvas.scale
        spots.blob(x, y, across, rng.uniform(0.75, 1), rng.uniform(0, np.pi), rng.uniform(0.5, 1))
    amount = spots.plane(0.5 * canvas.scale)
    canvas.melanin += np.float32(rng.uniform(0.15, 0.40) * (1 + 0.5 * atypia)) * amount
    canvas.record("irregular_globules" if atypia > 0.5 else "regular_globules", amount)


def streaks(canvas: Canvas, rng: np.random.Generator, atypia: float) -> None:
    """Radial projections at the border: all round (Spitz, Reed), or (``atypia``) in one or two arcs."""
    lines = Stencil(canvas.side)
    for start, width in (
        [(0.0, 2 * np.pi)] if atypia < 0.5 else [(rng.uniform(0, 6.3), rng.uniform(0.8, 2.0))]
    ):
        for angle in np.arange(start, start + width, rng.uniform(0.12, 0.2)):
            border = border_at(canvas, angle)
            bend = rng.normal(0, 0.04 + 0.08 * atypia)
            reach = rng.uniform(1.02, 1.14 + 0.10 * atypia)
            ends = [(0.82 * border, angle), (border, angle + bend / 2), (reach * border, angle + bend)]
            points = [canvas.pixels_of(r * np.cos(t), r * np.sin(t)) for r, t in ends]
            lines.line(points, rng.uniform(1.4, 2.8) * canvas.scale, rng.uniform(0.7, 1))
            lines.blob(*points[-1], rng.uniform(2.0, 3.6) * canvas.scale, 1, 0, rng.uniform(0.6, 1))
    amount = lines.plane(0.6 * canvas.scale)
    canvas.melanin += np.float32(rng.uniform(0.25, 0.6)) * amount
    canvas.record("streaks", amount)


def border_at(canvas: Canvas, angle: float) -> float:
    """Return the lesion's radius in direction ``angle``, in lesion coordinates."""
    radii = np.linspace(0.2, 2.0, 60)
    middle = canvas.side / 2
    columns = np.clip(middle + radii * np.cos(angle) * canvas.unit, 0, canvas.side - 1).astype(int)
    rows = np.clip(middle + radii * np.sin(angle) * canvas.unit, 0, canvas.side - 1).astype(int)
    within = np.flatnonzero(canvas.level[rows, columns] < 1)
    return float(radii[within[-1]]) if within.size else 0.2


def blotch(canvas: Canvas, rng: np.random.Generator, atypia: float) -> None:
    """A structureless dark area: central, or (``atypia``) off-centre with a ragged edge."""
    x, y = off_centre(rng, 0.1 + 0.5 * atypia)
    size = rng.uniform(0.3, 0.6)
    distance = np.hypot(canvas.x - x, canvas.y - y) / size
    ragged = distance + (0.10 + 0.25 * atypia) * noise(rng, canvas.side, 14 * canvas.scale)
    amount = step(-ragged, -1.0, 0.8 - 0.3 * atypia) * step(-canvas.level, -1.0, 0.1)
    canvas.melanin += np.float32(rng.uniform(0.3, 0.7 + 0.4 * atypia)) * amount
    canvas.record("blotch", amount)


def blue_white_veil(canvas: Canvas, rng: np.random.Generator, atypia: float) -> None:
    """Confluent blue pigment under a white ground-glass haze, over part of the lesion."""
    x, y = off_centre(rng, 0.4)
    distance = np.hypot(canvas.x - x, canvas.y - y) / rng.uniform(0.45, 0.75)
    amount = step(-(distance + 0.22 * noise(rng, canvas.side, 16 * canvas.scale)), -0.9, 1.0)
    amount *= step(-canvas.level, -0.97, 0.15) * np.float32(rng.uniform(0.3, 0.45 + 0.3 * atypia))
    canvas.cover(amount, (0.36, 0.36, rng.uniform(0.40, 0.48)))
    haze = np.clip(amount * (0.35 + 0.25 * noise(rng, canvas.side, 9 * canvas.scale)), 0, 0.3)
    canvas.cover(haze, (0.70, 0.66, 0.70))
    canvas.record("blue_white_veil", amount)


def regression(canvas: Canvas, rng: np.random.Generator, atypia: float) -> None:
    """White scar-like patches with blue-grey peppering, where pigment has gone."""
    patch = step(
        noise(rng, canvas.side, 20 * canvas.scale) + 0.4 * noise(rng, canvas.side, 7 * canvas.scale),
        1.0 - 0.4 * atypia,
        1.5,
    )
    patch *= step(-canvas.level, -0.92, 0.2)
    canvas.melanin *= 1 - np.float32(0.75) * patch
    canvas.cover(patch * np.float32(rng.uniform(0.25, 0.5)), (0.84, 0.74, 0.77))
    pepper = Stencil(canvas.side)
    for column, row in scattered(canvas, rng, int(rng.integers(30, 90)), 0.92):
        pepper.blob(column, row, rng.uniform(1.2, 2.4) * canvas.scale, 1, 0, rng.uniform(0.3, 0.9))
    canvas.cover(0.7 * pepper.plane(0.4 * canvas.scale) * np.clip(patch + 0.25, 0, 1), BLUE_GREY)
    canvas.record("regression", patch)


def leaf_like_areas(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """Brown to grey-blue lobes that spread like a maple leaf's from a base near the border (BCC)."""
    leaves = Stencil(canvas.side)
    for _leaf in range(int(rng.integers(1, 5))):
        angle = rng.uniform(0, 2 * np.pi)
        radius = border_at(canvas, angle) * rng.uniform(0.6, 0.95)
        x, y = canvas.pixels_of(radius * np.cos(angle), radius * np.sin(angle))
        for turn in np.linspace(-1.0, 1.0, int(rng.integers(3, 6))):
            direction = angle + turn + rng.normal(0, 0.15)
            length = rng.uniform(0.22, 0.42) * canvas.unit
            leaves.blob(
                x + length / 2 * np.cos(direction),
                y + length / 2 * np.sin(direction),
                length,
                rng.uniform(0.3, 0.45),
                direction,
                rng.uniform(0.7, 1),
            )
    _slate(canvas, rng, leaves.plane(1.5 * canvas.scale), "leaf_like_areas")


def ovoid_nests(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """Large well-defined blue-grey ovals with smaller globules beside them (BCC)."""
    nests = Stencil(canvas.side)
    for x, y in scattered(canvas, rng, int(rng.integers(2, 7)), 0.85):
        across = rng.uniform(0.18, 0.5) * canvas.unit
        nests.blob(x, y, across, rng.uniform(0.5, 0.9), rng.uniform(0, np.pi), rng.uniform(0.6, 1))
    beside, count = Stencil(canvas.side), 0
    for x, y in scattered(canvas, rng, int(rng.integers(4, 26)), 0.95):
        globule = (x, y, rng.uniform(1.8, 4.5) * canvas.scale, 1, 0, rng.uniform(0.5, 1))
        nests.blob(*globule)
        beside.blob(*globule)
        count += 1
    _slate(canvas, rng, nests.plane(1.6 * canvas.scale), "ovoid_nests")
    if count >= MULTIPLE:
        canvas.record("multiple_globules", beside.plane(1.6 * canvas.scale))


def spoke_wheel(canvas: Canvas, rng: np.random.Generator, _: float) -> None:
    """Brown spokes that meet in a darker hub (BCC)."""
    wheels = Stencil(canvas.side)
    for x, y in scattered(canvas, rng, int(rng.integers(1, 4)), 0.85):
        radius = rng.uniform(0.12, 0.24) * canvas.unit
        for angle in np.arange(0, 2 * np.pi, rng.uniform(0.45, 0.8)) + rng.uniform(0, 1):
            tip = (x + radius * np.cos(angle), y + radius * np.sin(angle))
            wheels.line([(x, y), tip], rng.uniform(1.0, 2.0) * canvas.scale, 0.8)
        wheels.blob(x, y, 0.7 * radius, 1, 0, 1)
    _slate(canvas, rng, wheels.plane(0.7 * canvas.scale), "spoke_wheel")


def _slate(canvas: Canvas, rng: np.random.Generator, amount: np.ndarray, name: str) -> None:
    """Pigment in nests below the epidermis: between brown and blue-grey."""
    amount = amount * np.clip(0.8 + 0.25 * noise(rng, canvas.side, 8 * canvas.scale), 0, 1)
    blue = rng.uniform(0.2, 0.95)
    canvas.melanin += np.float32(0.75 * (1 - blue)) * amount
    canvas.cover(np.asarray(amount * np.float32(0.75 * blue)), BLUE_GREY)
    canvas.record(name, amount)
