"""Where a pattern head looks: Grad-CAM of its logit, and how much of it lies inside the pattern's mask.

Grad-CAM as ``fedderm explain`` draws it (extra ``explain``). Agreement as in arXiv 2407.00104: the mean of
the map, scaled to 0..1, inside the mask and outside; and the share of the map's mass inside, against the same
mask put elsewhere.
Shapes: S x S pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from fedderm.batches import to_input
from fedderm.model.cascade import Cascade
from fedderm.saliency import Heat, grad_cam, require_explain

Mask = npt.NDArray[np.bool_]

PLACES: Final = 20
"""Random places that the mask is put in, or other images' masks that are asked in its stead."""


class _PatternLogits(nn.Module):
    """The network with BCC and patterns alone, (B, 8)."""

    def __init__(self, model: Cascade) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.model(inputs).patterns
        return found


class PatternMaps:
    """Grad-CAM of a model's pattern heads."""

    def __init__(self, model: Cascade) -> None:
        """Prepare; raises ValueError without the extra or without pattern heads."""
        require_explain()
        if not hasattr(model, "patterns"):
            raise ValueError("the model has no pattern heads; train one with model.patterns: true")
        self._trunk = model.eval().requires_grad_(False).trunks[0]
        self._answers = _PatternLogits(model)
        self._device = next(model.parameters()).device

    def heat(self, image: npt.NDArray[np.uint8], pattern: int) -> Heat:
        """Return the map (S, S) of an image (S, S, 3) in 0..1, all 0 where nothing speaks for the pattern.

        ``pattern``: its place in ``BCC_PATTERNS``.
        """
        inputs = to_input(image[None].copy(), self._device)  # PIL's arrays cannot be written to
        return grad_cam(self._answers, 1 + pattern, self._trunk, inputs, 1)[1]


@dataclass(frozen=True)
class Agreement:
    """How a map and a mask agree in one image; all in 0..1."""

    inside: float
    """Mean of the map inside the mask."""
    outside: float
    share: float
    """Of the map's mass, inside the mask."""
    share_random: float
    """Of the map's mass, inside the same mask mirrored and moved to random places (round the edges)."""
    share_other: float
    """Of the map's mass, inside masks of the same pattern in other images: what a map gains that looks at the
    middle, where lesions are."""


def agreement(heat: Heat, mask: Mask, others: Sequence[Mask], rng: np.random.Generator) -> Agreement | None:
    """Return how ``heat`` (S, S) agrees with ``mask``; None where the map is empty, or the mask is or is all.

    ``others``: masks of the same pattern in other images; where there are none, ``share_other`` is NaN.
    """
    total = float(heat.sum())
    if total <= 0 or not mask.any() or mask.all():
        return None
    chosen = [others[one] for one in rng.permutation(len(others))[:PLACES]]
    shares = [float(heat[one].sum()) / total * _of_size(one, mask) for one in chosen if one.any()]
    return Agreement(
        inside=float(heat[mask].mean()),
        outside=float(heat[~mask].mean()),
        share=float(heat[mask].sum()) / total,
        share_random=float(np.mean([heat[one].sum() / total for one in _moved(mask, rng)])),
        share_other=float(np.mean(shares)) if shares else float("nan"),
    )


def _of_size(other: Mask, mask: Mask) -> float:
    """Return the factor by which a share inside ``other`` is one inside as many pixels as ``mask`` has."""
    return float(mask.sum()) / float(other.sum())


def _moved(mask: Mask, rng: np.random.Generator) -> Iterator[Mask]:
    for _ in range(PLACES):
        turned = np.rot90(mask, int(rng.integers(4)))
        yield np.roll(turned, tuple(rng.integers(0, mask.shape[0], 2)), axis=(0, 1))


def central(side: int) -> Mask:
    """Return the disc in the middle whose diameter is half the side: a fifth of the image (0.196)."""
    axis = (np.arange(side) + 0.5) / side - 0.5
    return np.asarray(np.hypot(*np.meshgrid(axis, axis)) < 0.25)
