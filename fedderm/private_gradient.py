"""The gradient of DP-SGD: each image's own, clipped; their sum with noise; over the expected batch.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, Algorithm 1:
``g = (sum_i g_i min(1, C / |g_i|) + N(0, sigma^2 C^2)) / L`` with the clipping norm C, the noise multiplier
sigma and L the expected size of a batch, into which each image is drawn on its own with probability L / n.

Draws and noise come from the operating system's entropy, never from the experiment's seed: the server knows
that, could subtract the noise, and would know who was drawn. So two private trainings are never alike. The
generator behind them is NumPy's, no cryptographic one, and noise in floating-point numbers has gaps (Mironov,
"On Significance of the Least Significant Bits for Differential Privacy", CCS 2012): neither is defended
against.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from fedderm.batches import Batch
from fedderm.devices import autocast
from fedderm.losses import image_losses
from fedderm.memory_limits import MemoryLimit, fits
from fedderm.model.heads import Heads, Logits
from fedderm.training_settings import PrivacySettings, TrainingSettings

_AT_A_TIME: Final = 16
"""Images whose own gradients are in memory at the same time, or as many as it holds: a model for each."""


def poisson_draws(images: int, expected: int, steps: int) -> list[npt.NDArray[np.int64]]:
    """Return each step's positions: each of ``images`` is drawn with probability ``expected / images``.

    Batches differ in size, and may be empty: that is what the accountant counts with.
    """
    rng = np.random.default_rng()
    return [np.flatnonzero(rng.random(images) < expected / images) for _ in range(steps)]


class PrivateGradient:
    """Puts a batch's private gradient in the place of the parameters' own."""

    def __init__(
        self, model: Heads, settings: TrainingSettings, privacy: PrivacySettings, side: int, expected: int
    ) -> None:
        """Prepare for images of ``side`` pixels (features: 1) and batches of ``expected`` images."""
        self._model = model.eval()  # no dropout, and BatchNorm as it is: an image's gradient is its own
        self._settings = settings
        self._privacy = privacy
        self._expected = expected
        self._device = next(model.parameters()).device
        self._limit = MemoryLimit(model, "private", side, settings.precision)
        self._trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self._rng = np.random.default_rng()

    def micro_batch(self, count: int) -> int:
        """Return how many of a batch's gradients are in memory at a time."""
        return self._limit.largest(min(count, _AT_A_TIME))

    def add(self, batch: Batch, classes: Tensor, terms: Tensor) -> Tensor:
        """Set the gradient for ``classes`` (B,), B from 0, and ``terms`` (B, 6) of the loss.

        Return (2,) zeros in the place of the losses, which have no noise and are nobody's to know. Raises
        ValueError where memory does not hold one image.
        """
        total = {name: torch.zeros_like(one) for name, one in self._trained.items()}
        start = 0
        while start < len(classes):
            size = self._limit.largest(min(_AT_A_TIME, len(classes) - start))
            part = slice(start, start + size)
            clipped: dict[str, Tensor] = {}
            if fits(lambda: clipped.update(self.clipped_sum(batch, part, classes[part], terms[part]))):  # noqa: B023
                for name, one in clipped.items():
                    total[name] += one
                start += size
            else:
                self._limit.halve(size)
        deviation = self._privacy.noise_multiplier * self._privacy.max_grad_norm
        for name, parameter in self._trained.items():
            noise = torch.from_numpy(self._rng.standard_normal(tuple(parameter.shape), np.float32))
            parameter.grad = (total[name] + deviation * noise.to(total[name])) / self._expected
        return torch.zeros(2, dtype=torch.float64, device=self._device)

    def clipped_sum(self, batch: Batch, part: slice, classes: Tensor, terms: Tensor) -> Mapping[str, Tensor]:
        """Return the sum over a part of the batch of each image's gradient, clipped, by parameter."""
        inputs, metadata = batch.inputs(part, self._device), batch.metadata(part, self._device)
        parameters = {name: one.detach() for name, one in self._trained.items()}

        def loss(
            trained: dict[str, Tensor],
            one: Tensor,
            its_class: Tensor,
            its_terms: Tensor,
            its_metadata: Tensor | None,
        ) -> Tensor:
            """Return one image's loss as a function of the parameters, whose gradient is clipped alone."""
            shown = (one[None], None if its_metadata is None else its_metadata[None])
            with autocast(self._device, self._settings.precision):
                logits: Logits = functional_call(self._model, trained, shown)
            _, found = image_losses(
                self._model.scheme, logits, its_class[None], its_terms[None], self._settings
            )
            return found.sum()

        each = vmap(grad(loss), in_dims=(None, 0, 0, 0, None if metadata is None else 0))
        own: dict[str, Tensor] = each(parameters, inputs, classes, terms, metadata)
        # A gradient that is not finite has no norm to clip by, and one NaN would tell through any noise that
        # its image was there: such an image adds nothing, which is within the bound.
        sound = torch.stack([one.flatten(1).isfinite().all(dim=1) for one in own.values()]).all(dim=0)
        own = {name: torch.where(sound.view(-1, *[1] * (one.ndim - 1)), one, 0) for name, one in own.items()}
        squares = torch.stack([one.flatten(1).square().sum(dim=1) for one in own.values()]).sum(dim=0)
        factors = (self._privacy.max_grad_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        return {name: torch.einsum("b...,b->...", one, factors.to(one)) for name, one in own.items()}
