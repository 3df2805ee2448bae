"""Random geometry and colour for a batch of images, on the device that trains.

Own code because each image of the batch draws its own parameters in one ``grid_sample``, from a generator of
ours; torchvision's transforms apply one draw to the whole batch and read the global random state.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fedderm.training_settings import AugmentationSettings

# Our choice, backed by what differs between real sites (channel gains: log-SD about 0.07 between sources).
ZOOM, ASPECT, SHIFT = 0.25, 0.08, 0.08
GAIN, GAMMA, SATURATION, CONTRAST, BRIGHTNESS = 0.10, 0.18, 0.18, 0.15, 0.10


def augment(images: Tensor, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Return augmented copies of ``images`` (B, 3, H, W) in 0..1, each with its own draw.

    The draws come from the CPU ``generator``, so a GPU sees the same augmentation as a CPU. Strength 0
    switches a family off; both 0 return the images unchanged.
    """
    if settings.geometry > 0:
        images = _geometry(images, settings.geometry, generator)
    if settings.colour > 0:
        images = _colour(images, settings.colour, generator)
    return images


def _geometry(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Rotate by any angle, mirror, zoom, stretch and shift; a lesion has no upright."""
    count = images.shape[0]
    angle = _uniform(count, math.pi, generator)
    zoom = torch.exp(_uniform(count, ZOOM * strength, generator))
    stretch = torch.exp(_normal(count, ASPECT * strength, generator))
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0)
    shift = torch.stack([_uniform(count, SHIFT * strength, generator) for _ in range(2)], dim=1)
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    horizontal = torch.stack([cosine, sine], dim=1) * (stretch * mirror)[:, None]
    vertical = torch.stack([-sine, cosine], dim=1)
    affine = torch.stack([horizontal, vertical, shift], dim=2).to(images.device, images.dtype)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _colour(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change channel gains, gamma, saturation, contrast and brightness, as another device would."""
    count = images.shape[0]

    def factor(deviation: float, channels: int = 1) -> Tensor:
        draw = torch.exp(_normal(count * channels, deviation * strength, generator))
        return draw.view(count, channels, 1, 1).to(images.device, images.dtype)

    images = (images * factor(GAIN, 3)).clamp(1e-4, 1) ** factor(GAMMA)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * factor(SATURATION)
    level = images.mean(dim=(2, 3), keepdim=True)
    images = level + (images - level) * factor(CONTRAST)
    return (images * factor(BRIGHTNESS)).clamp(0, 1)


def _uniform(count: int, limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=generator) * 2 - 1) * limit


def _normal(count: int, deviation: float, generator: torch.Generator) -> Tensor:
    return torch.randn(count, generator=generator) * deviation
