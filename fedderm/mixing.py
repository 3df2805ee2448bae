"""MixUp and CutMix: training images made of two.

MixUp (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018): ``l x_i + (1 - l) x_j`` with
the loss ``l L(y_i) + (1 - l) L(y_j)``. CutMix (Yun et al., ICCV 2019): a box of x_j, 1 - l of its area, in
x_i. Own code because timm's Mixup draws once for a batch, from NumPy's global state, and wants one-hot
labels; here each image draws its own partner and share, so that a batch can be worked off in parts.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from fedderm.training_settings import AugmentationSettings

COLUMNS: Final = 6
"""Of what is drawn for an image: its partner's place in the batch, its own share, and a box to paste."""


class Mixture(NamedTuple):
    """``partners`` (b,): places in the batch; ``own`` (b,): share of the image itself; ``boxes`` (b, 4): top,
    bottom, left and right edge of what is pasted, 0..1."""

    partners: Tensor
    own: Tensor
    boxes: Tensor


def draw_mixing(count: int, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Return what is mixed into each of ``count`` images, (count, 6) on the CPU."""
    partners = torch.randperm(count, generator=generator).float()
    own = _beta(count, settings.mixing_alpha, generator)
    centre = torch.rand(count, 2, generator=generator)
    if settings.mixing == "mixup":
        return torch.cat([partners[:, None], own[:, None], torch.zeros(count, 4)], dim=1)
    half = torch.sqrt(1 - own)[:, None] / 2
    low, high = (centre - half).clamp(min=0), (centre + half).clamp(max=1)
    boxes = torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], dim=1)
    return torch.cat([partners[:, None], own[:, None], boxes], dim=1)


def mixture_of(drawn: Tensor, settings: AugmentationSettings, side: int) -> Mixture:
    """Return what ``drawn`` (b, 6) says for images of ``side`` pixels a side.

    A box has whole pixels, and what it takes is its own share of the area: it may reach beyond the image.
    """
    partners, own, boxes = drawn[:, 0].long(), drawn[:, 1], drawn[:, 2:]
    if settings.mixing == "cutmix":
        boxes = (boxes * side).round()
        own = 1 - (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / side**2
    return Mixture(partners, own, boxes)


def mixed(images: Tensor, others: Tensor, mixture: Mixture, settings: AugmentationSettings) -> Tensor:
    """Return ``images`` (b, ...) with ``others`` (b, ...) mixed in; CutMix wants pixels (b, 3, H, W)."""
    if settings.mixing == "mixup":
        own = mixture.own.to(images.device).view(-1, *[1] * (images.ndim - 1))
        return own * images + (1 - own) * others
    top, bottom, left, right = mixture.boxes.to(images.device).T[:, :, None]
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return torch.where((down[:, :, None] & across[:, None, :])[:, None], others, images)


def _beta(count: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Return draws of Beta(alpha, alpha): torch's own takes no generator, so by Joehnk's method (1964).

    Of two uniform numbers, x = u^(1/a) and y = v^(1/a), kept where x + y <= 1, x / (x + y) is one.
    """
    found = torch.empty(0, dtype=torch.float64)
    while len(found) < count:
        logs = torch.rand(2, 4 * count + 16, generator=generator, dtype=torch.float64).clamp(min=1e-300).log()
        x, y = (logs / alpha).exp()
        # With a small alpha both may be too small for a float: then the larger logarithm wins outright.
        share = torch.sigmoid((logs[0] - logs[1]) / alpha)
        found = torch.cat([found, share[x + y <= 1]])
    return found[:count].float()
