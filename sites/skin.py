"""The skin around a lesion: tone by Fitzpatrick type, mottling, skin lines, vessels and sun damage."""

import math
from typing import Final

import numpy as np

from sites.pigment import Canvas, Stencil, noise, step

TONE: Final = {"I": 0.03, "II": 0.09, "III": 0.18, "IV": 0.34, "V": 0.58, "VI": 0.90}
"""Melanin density of the surrounding skin by Fitzpatrick type: a choice."""


def paint(canvas: Canvas, rng: np.random.Generator, skin_type: str, age: float) -> None:
    """Paint the skin that everything else lies on. Sun damage grows with ``age`` (years) and with pale
    skin."""
    side, scale = canvas.side, canvas.scale
    damage = float(np.clip((age - 35) / 40 + rng.normal(0, 0.35), 0, 1.3)) * (
        1.0 if skin_type in ("I", "II") else 0.5
    )
    tone = TONE[skin_type] * float(np.exp(rng.normal(0, 0.25)))
    # Young skin is pinker; elastosis makes old skin paler and sallow.
    pink = float(np.clip(rng.gamma(3.0, 0.055) * (1.25 - 0.95 * min(damage, 1.0)), 0.02, 0.55))
    mottle = 0.008 + 0.025 * damage * rng.random()
    canvas.melanin += tone + 0.03 * rng.random() * noise(rng, side, 90 * scale)
    canvas.melanin += mottle * noise(rng, side, 9 * scale)
    canvas.blood += pink + 0.025 * noise(rng, side, 60 * scale)
    red = 0.012 + 0.035 * damage * rng.random()
    canvas.blood += red * (noise(rng, side, 15 * scale) + noise(rng, side, 6 * scale))
    canvas.melanin += 0.03 * damage * rng.random() * noise(rng, side, 4 * scale)
    _skin_lines(canvas, rng)
    if rng.random() < 0.1 + 0.35 * damage:
        _mesh_of_vessels(canvas, rng, rng.uniform(0.04, 0.08 + 0.2 * damage))
    if rng.random() < 0.6 * damage:
        _lentigines(canvas, rng)
    if rng.random() < 0.25:
        _follicles(canvas, rng)
    np.clip(canvas.melanin, 0.0, None, out=canvas.melanin)
    np.clip(canvas.blood, 0.02, None, out=canvas.blood)


def _skin_lines(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fine criss-cross furrows, and the grain that a sensor sees between them."""
    side, scale = canvas.side, canvas.scale
    strength = rng.gamma(1.2, 0.008)
    angle = rng.uniform(0, np.pi)
    for turn in (0.0, rng.uniform(0.9, 1.6)):
        waves = 2 * math.pi * canvas.unit / (rng.uniform(5, 9) * scale)
        phase = waves * (math.cos(angle + turn) * canvas.x + math.sin(angle + turn) * canvas.y)
        wave = np.cos(phase + 3.5 * noise(rng, side, 22 * scale))
        canvas.melanin += strength * wave * wave * wave
    canvas.melanin += rng.uniform(0.006, 0.018) * noise(rng, side, 2.2 * scale)


def _mesh_of_vessels(canvas: Canvas, rng: np.random.Generator, strength: float) -> None:
    """Telangiectatic mesh of sun-damaged skin: ridges where smooth noise crosses zero."""
    ridge = np.abs(
        noise(rng, canvas.side, 18 * canvas.scale) + 0.3 * noise(rng, canvas.side, 7 * canvas.scale)
    )
    lines = 1 - np.clip(ridge / 0.28, 0, 1)
    where = step(noise(rng, canvas.side, 70 * canvas.scale), 0.0, 1.5)
    canvas.blood += np.float32(strength) * lines * where


def _lentigines(canvas: Canvas, rng: np.random.Generator) -> None:
    spots = Stencil(canvas.side)
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.uniform(0, canvas.side, 2)
        spots.blob(
            x,
            y,
            rng.uniform(5, 22) * canvas.scale,
            rng.uniform(0.6, 1),
            rng.uniform(0, np.pi),
            rng.uniform(0.3, 1),
        )
    ragged = spots.plane(3 * canvas.scale) * (1 + 0.35 * noise(rng, canvas.side, 5 * canvas.scale))
    canvas.melanin += np.float32(0.28) * np.clip(ragged, 0, None)


def _follicles(canvas: Canvas, rng: np.random.Generator) -> None:
    """Pores: small pale or dark dots on a jittered lattice."""
    spots = Stencil(canvas.side)
    pitch = rng.uniform(11, 20) * canvas.scale
    lattice = np.arange(pitch / 2, canvas.side, pitch)
    for x in lattice:
        for y in lattice:
            dx, dy = rng.normal(0, 0.22 * pitch, 2)
            spots.blob(x + dx, y + dy, rng.uniform(2, 4) * canvas.scale, 1, 0, rng.uniform(0.2, 0.9))
    amount = spots.plane(0.8 * canvas.scale)
    canvas.melanin += np.float32(rng.choice((-0.07, -0.04, 0.07))) * amount
