"""Dropout before the heads, whose draws are those of a whole batch also where memory takes it in parts."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchDropout(nn.Module):
    """Drops values with probability ``p`` and scales the others by 1 / (1 - p), while training.

    ``take_part`` says that the next forward pass sees a part of a batch only: with its first part the draws
    of all images are made, in the order of a pass over the whole batch, and the other parts get theirs.
    """

    def __init__(self, p: float) -> None:
        """Drop values with probability ``p``."""
        super().__init__()
        self.p = p
        self._part: tuple[slice, int] | None = None
        self._kept: list[Tensor] = []
        self._calls = 0

    def take_part(self, part: slice, count: int) -> None:
        """Take note that the next pass sees ``part`` of a batch of ``count`` images."""
        if part.start == 0:
            self._kept = []
        self._part, self._calls = (part, count), 0

    def take_whole(self) -> None:
        """Take note that passes see whole batches again."""
        self._part, self._kept = None, []

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values`` (b, ...) with some set to zero, or as they are outside of training."""
        if not self.training or not self.p:
            return values
        if self._part is None:
            return values * self.factors(len(values), values)
        part, count = self._part
        if self._calls == len(self._kept):
            self._kept.append(self.factors(count, values))
        self._calls += 1
        return values * self._kept[self._calls - 1][part]

    def factors(self, count: int, values: Tensor) -> Tensor:
        """Return what ``count`` images' values are multiplied by, drawn from torch's global generator.

        The shape alone decides what is drawn. Of ``F.dropout(values)`` a GPU draws other values where these
        lie otherwise in memory, as a transformer's class token does in a batch and not in a copy of it.
        """
        return F.dropout(values.new_ones(count, *values.shape[1:]), self.p)


class PackedDropout(BatchDropout):
    """Dropout that draws eight values with one number.

    Beside two linear layers torch's own, which draws each value alone, takes most of a step's time on a CPU.
    ``p`` is rounded to a multiple of 1 / 256.
    """

    def __init__(self, p: float) -> None:
        """Drop values with probability ``p``, rounded."""
        super().__init__(min(255, round(p * 256)) / 256)
        self._octet = round(self.p * 256)

    def factors(self, count: int, values: Tensor) -> Tensor:
        """Return what ``count`` images' values are multiplied by, drawn from torch's global generator."""
        shape = (count, *values.shape[1:])
        size = math.prod(shape)
        numbers = torch.empty(-(-size // 8), dtype=torch.int64, device=values.device).random_(-(2**63), None)
        kept = (numbers.view(torch.uint8)[:size].view(shape) >= self._octet).to(values.dtype)
        return kept.mul_(256 / (256 - self._octet))


def dropouts(model: nn.Module) -> Sequence[BatchDropout]:
    """Return the model's dropout layers of this kind."""
    return [module for module in model.modules() if isinstance(module, BatchDropout)]
