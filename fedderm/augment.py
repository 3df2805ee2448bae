"""Random geometry and colour for a batch of images, on the device that trains.

Own code because each image of the batch draws its own parameters in one ``grid_sample``, from a generator of
ours; torchvision's transforms apply one draw to the whole batch and read the global random state.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fedderm.training_settings import AugmentationSettings

# Our choice, backed by what differs between real sites (channel gains: log-SD about 0.07 between sources).
ZOOM, ASPECT, SHIFT = 0.25, 0.08, 0.08
GAIN, GAMMA, SATURATION, CONTRAST, BRIGHTNESS = 0.10, 0.18, 0.18, 0.15, 0.10

ELASTIC = 0.05
"""Standard deviation of a knot's displacement, of half a side."""

_AFFINE, _COLOUR, _KNOTS = 6, 7, 5
"""Columns of what is drawn that say where an image is sampled, and what becomes of its colours; after them
come the displacements of 5 x 5 knots, two each."""


def draw(count: int, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Return what is to happen to ``count`` images, (B, 13) on the CPU, or (B, 63) with elastic deformation:
    all of it in one tensor, so that one copy brings it to a GPU.

    The draws come from the CPU ``generator``, so a GPU sees the same augmentation as a CPU. A family that is
    switched off draws nothing.
    """
    drawn = torch.zeros(count, _AFFINE + _COLOUR)
    if settings.geometry > 0:
        drawn[:, :_AFFINE] = _affine(count, settings.geometry, generator).flatten(1)
    if settings.colour > 0:
        drawn[:, _AFFINE:] = _factors(count, settings.colour, generator)
    if settings.elastic > 0:
        knots = _normal(count * 2 * _KNOTS**2, ELASTIC * settings.elastic, generator).view(count, -1)
        drawn = torch.cat([drawn, knots], dim=1)
    return drawn


def augment(images: Tensor, drawn: Tensor, settings: AugmentationSettings) -> Tensor:
    """Return augmented copies of ``images`` (B, 3, H, W) in 0..1, each as ``drawn`` says.

    Strength 0 switches a family off; all 0 return the images unchanged.
    """
    if settings.geometry > 0 or settings.elastic > 0:
        affine = drawn[:, :_AFFINE].view(-1, 2, 3)
        if settings.geometry == 0:
            affine = torch.eye(2, 3, device=images.device).expand(len(images), 2, 3)
        knots = drawn[:, _AFFINE + _COLOUR :].view(-1, 2, _KNOTS, _KNOTS) if settings.elastic > 0 else None
        images = _resampled(images, affine, knots)
    if settings.colour > 0:
        images = _coloured(images, drawn[:, _AFFINE : _AFFINE + _COLOUR])
    return images


def _affine(count: int, strength: float, generator: torch.Generator) -> Tensor:
    """Return (B, 2, 3) that rotate by any angle, mirror, zoom, stretch and shift; a lesion has no upright."""
    angle = _uniform(count, math.pi, generator)
    zoom = torch.exp(_uniform(count, ZOOM * strength, generator))
    stretch = torch.exp(_normal(count, ASPECT * strength, generator))
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0)
    shift = torch.stack([_uniform(count, SHIFT * strength, generator) for _ in range(2)], dim=1)
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    horizontal = torch.stack([cosine, sine], dim=1) * (stretch * mirror)[:, None]
    vertical = torch.stack([-sine, cosine], dim=1)
    return torch.stack([horizontal, vertical, shift], dim=2)


def _factors(count: int, strength: float, generator: torch.Generator) -> Tensor:
    """Return (B, 7): gains of three channels, gamma, saturation, contrast and brightness."""

    def factor(deviation: float, channels: int = 1) -> Tensor:
        draws = torch.exp(_normal(count * channels, deviation * strength, generator))
        return draws.view(count, channels)

    gains = factor(GAIN, 3)
    return torch.cat([gains, *(factor(one) for one in (GAMMA, SATURATION, CONTRAST, BRIGHTNESS))], dim=1)


def _resampled(images: Tensor, affine: Tensor, knots: Tensor | None) -> Tensor:
    """Return images sampled where ``affine`` (B, 2, 3) takes the pixels' centres, displaced as ``knots``
    (B, 2, 5, 5) are, smoothly between them."""
    height, width = images.shape[2:]
    across = _centres(width, images.device)[None, None, :, None]
    down = _centres(height, images.device)[None, :, None, None]
    columns = affine[:, None, None]  # (B, 1, 1, 2, 3)
    # No matrix product, which a GPU rounds to TF32's ten bits: a twentieth of a pixel at 224.
    grid = columns[..., 0] * across + columns[..., 1] * down + columns[..., 2]
    if knots is not None:
        field = F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@lru_cache(maxsize=8)
def _centres(side: int, device: torch.device) -> Tensor:
    """Return where the centres of ``side`` pixels are between the edges -1 and 1."""
    return (torch.arange(side, device=device, dtype=torch.float32) * 2 + 1) / side - 1


def _coloured(images: Tensor, factors: Tensor) -> Tensor:
    """Return images as another device would show them: ``factors`` (B, 7) of ``_factors``."""
    shaped = factors[:, :, None, None]
    gains, rest = shaped[:, :3], shaped[:, 3:]
    gamma, saturation, contrast, brightness = rest.chunk(4, dim=1)
    # In place, after the first: on a CPU a new tensor of this size costs more than what is computed.
    images = (images * gains).clamp_(1e-4, 1).pow_(gamma)
    grey = images.mean(dim=1, keepdim=True)
    images.sub_(grey).mul_(saturation).add_(grey)
    level = images.mean(dim=(2, 3), keepdim=True)
    images.sub_(level).mul_(contrast).add_(level)
    return images.mul_(brightness).clamp_(0, 1)


def _uniform(count: int, limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=generator) * 2 - 1) * limit


def _normal(count: int, deviation: float, generator: torch.Generator) -> Tensor:
    return torch.randn(count, generator=generator) * deviation
