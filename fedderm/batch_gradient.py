"""The gradient of a batch's mean loss: in one pass, or summed up over parts where memory asks for it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fedderm.batches import Batch
from fedderm.devices import autocast, random_state, restore_random_state
from fedderm.losses import FurtherLabels, image_losses
from fedderm.memory_limits import MemoryLimit, fits
from fedderm.model.dropout import dropouts
from fedderm.model.heads import Heads, Logits
from fedderm.training_settings import TrainingSettings

_Labels = tuple[Tensor, Tensor, FurtherLabels]
"""Of a batch: classes (B,), terms (B, 6), labels of further heads."""


class BatchGradient:
    """Adds a batch's gradient to the parameters' own.

    Where the device's memory does not hold the batch it is worked off in halves, quarters, ... whose
    gradients add up to the same, but for rounding: the loss is a mean over the whole batch, images are
    augmented as they would have been, and dropout before the heads drops the same values. What fitted is
    remembered with the model. A backbone's own random layers (Swin's stochastic depth) draw anew.
    """

    def __init__(self, model: Heads, settings: TrainingSettings, side: int) -> None:
        """Prepare for images of ``side`` pixels (features: 1)."""
        self._model = model
        self._settings = settings
        self._device = next(model.parameters()).device
        self._limit = MemoryLimit(model, "training", side, settings.precision)
        self._dropouts = dropouts(model)
        self._indivisible = settings.norm_statistics == "local" and any(
            isinstance(module, _BatchNorm) for module in model.modules()
        )

    def micro_batch(self, count: int) -> int:
        """Return how many images of a batch of ``count`` go through the network at a time."""
        return count if self._indivisible else self._limit.largest(count)

    def add(
        self, batch: Batch, classes: Tensor, terms: Tensor, further: FurtherLabels = FurtherLabels()
    ) -> Tensor:
        """Add the gradient for ``classes`` (B,), ``terms`` (B, 6) and ``further`` labels of the loss.

        Gradients that are there already are lost where memory gives out. Return the batch's mean loss and
        its triage loss, (2,) in float64 on the device. Raises ValueError where memory does not hold one
        image, or the batch cannot be divided.
        """
        count = len(classes)
        random = random_state(self._device)
        while True:
            parts = [slice(0, count)] if self._indivisible else self._limit.parts(count)
            losses: list[Tensor] = []
            if fits(lambda: self._work_off(batch, (classes, terms, further), parts, losses)):  # noqa: B023
                return torch.stack(losses).sum(dim=0)
            losses.clear()
            self._model.zero_grad(set_to_none=True)
            restore_random_state(random, self._device)
            if self._indivisible:
                raise ValueError(
                    f"the memory of the device does not hold a batch of {count} images, and "
                    "training.norm_statistics: local wants the whole batch's statistics; lower "
                    "training.batch_size or model.image_size, or set norm_statistics to frozen"
                )
            self._limit.halve(parts[0].stop)

    def _work_off(self, batch: Batch, labels: _Labels, parts: Sequence[slice], losses: list[Tensor]) -> None:
        count = len(labels[0])
        try:
            for part in parts:
                if len(parts) > 1:
                    for dropout in self._dropouts:
                        dropout.take_part(part, count)
                losses.append(self._part(batch, part, labels, (part.stop - part.start) / count))
        finally:
            for dropout in self._dropouts:
                dropout.take_whole()

    def _part(self, batch: Batch, part: slice, labels: _Labels, share: float) -> Tensor:
        mixture = batch.mixture(part)
        for logits in self._in_stages(batch.inputs(part, self._device), batch.metadata(part, self._device)):
            losses = self._losses(logits, part, labels)
            if mixture is not None:
                # As what is shown is made of two images, what is learnt is made of their two losses.
                own, partners = mixture.own.to(self._device), mixture.partners.to(self._device)
                others = self._losses(logits, partners, labels)
                losses = tuple(
                    own * one + (1 - own) * other for one, other in zip(losses, others, strict=True)
                )
            triage, loss = (one.mean() * share for one in losses)  # a share of one leaves the mean as it is
            loss.backward()  # type: ignore[no-untyped-call]
        return torch.stack([loss.detach(), triage.detach()]).double()

    def _in_stages(self, inputs: Tensor, metadata: Tensor | None) -> Iterator[Logits]:
        """Yield the logits of one network after the other, each gone back through before the next one's."""
        stages = self._model.in_stages(inputs, metadata)
        while True:
            with autocast(self._device, self._settings.precision):  # and neither loss nor gradient
                logits = next(stages, None)
            if logits is None:
                return
            yield logits

    def _losses(self, logits: Logits, rows: slice | Tensor, labels: _Labels) -> tuple[Tensor, ...]:
        """Return the triage loss and the whole loss of ``logits`` for the labels at ``rows``, (b,) each."""
        classes, terms, further = labels
        return image_losses(
            self._model.scheme,
            logits,
            classes[rows],
            terms[rows],
            self._settings,
            further.part(rows),
        )
