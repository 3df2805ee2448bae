"""Local training: what one site does in one round, and what the pooled baseline does in one place."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedderm.batch_gradient import BatchGradient
from fedderm.batches import training_batches
from fedderm.budget import batch_size, steps_of
from fedderm.devices import autocast, seeded
from fedderm.inference import side_of, views_of
from fedderm.label_skew import diagnosis_shifts, loss_terms
from fedderm.losses import FurtherLabels, image_losses
from fedderm.memory_limits import MemoryLimit, in_parts
from fedderm.model.heads import Heads
from fedderm.optimizers import optimizer_of, set_rate
from fedderm.private_gradient import PrivateGradient, poisson_draws
from fedderm.training_settings import TrainingSettings
from fedderm.trainset import TrainSet
from strategies.fednova import accumulated_rate
from strategies.site_side import LocalObjective


@dataclass(frozen=True)
class Stretch:
    """Which part of the whole training this is: ``round`` of ``rounds``, from 1."""

    round: int
    rounds: int


@dataclass(frozen=True)
class TrainResult:
    """Steps taken, images seen and the mean losses per image of one local training."""

    steps: int
    images: int
    loss: float
    triage_loss: float
    progress: float
    """The trunk's learning rates added up, each as often as momentum repeats its gradient."""
    micro_batch: int
    """Images that went through the network at a time: the batch, or what memory held of it."""


def train_locally(
    model: Heads,
    data: TrainSet,
    settings: TrainingSettings,
    stretch: Stretch,
    seed: Sequence[int],
    objective: LocalObjective | None = None,
) -> TrainResult:
    """Train ``model`` in place for ``local_epochs`` over ``data``, or ``local_steps``, or its own budget.

    All randomness follows from ``seed`` and nothing is kept between calls: the same call gives the same
    weights, but with ``settings.privacy`` (fedderm.private_gradient), which takes it from the operating
    system, augmentation too, and tells no losses either.
    ``objective`` is what a method adds to the loss; None is FedAvg's. Raises ValueError when the loss is not
    finite.
    """
    # One image more shifts whatever a seed draws for those behind it in the batch: who knows the seed would
    # see more of that image than its clipped gradient.
    rng, generator = seeded(seed if settings.privacy is None else [secrets.randbits(128)])
    device = next(model.parameters()).device
    size = batch_size(len(data), settings)
    _training_mode(model, settings, size)
    steps = steps_on(data, settings)
    optimizer = optimizer_of(model, settings, device)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradient: BatchGradient | PrivateGradient
    if settings.privacy is None:
        gradient = BatchGradient(model, settings, side_of(data.images[0]))
        positions = list(data.draw(steps * size, rng).reshape(steps, size))
    else:
        gradient = PrivateGradient(model, settings, settings.privacy, side_of(data.images[0]), size)
        positions = poisson_draws(len(data), size, steps)
    order, ends = np.concatenate(positions), np.cumsum([0, *map(len, positions)])
    added = AddedGradient(model, objective or LocalObjective())
    rates = []
    # The whole round's at once: a copy to a GPU in each step would wait for the step before.
    classes = torch.from_numpy(data.classes[order]).to(device)
    terms = _terms(model, data, settings, order, device)
    further = _further_labels(data, order, settings, device)
    total = torch.zeros(2, dtype=torch.float64, device=device)
    with training_batches(data, positions, settings.augmentation, generator, device) as batches:
        for step, batch in enumerate(batches):
            done = ((stretch.round - 1) * steps + step) / (stretch.rounds * steps)
            warmth = min(1.0, (step + 1) / max(5, 0.2 * steps))
            rates.append(set_rate(optimizer, settings, done, warmth))
            optimizer.zero_grad(set_to_none=True)
            part = slice(ends[step], ends[step + 1])
            told = (classes[part], terms[part])
            if isinstance(gradient, PrivateGradient):
                total += gradient.add(batch, *told)
            else:
                total += gradient.add(batch, *told, further.part(part))
            if settings.privacy is None:  # a private one is clipped image by image
                # The site's own is clipped, not what a method adds: control variates are means of it.
                nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            added.apply()
            optimizer.step()
            if step % 50 == 49 or step == steps - 1:  # a look at the loss waits for the GPU: not each step
                _check_finite(total, stretch, step)
    optimizer.zero_grad(set_to_none=True)  # the worker keeps the model, and need not keep its gradients
    loss_sum, triage_sum = total.tolist()
    progress = accumulated_rate(
        rates, settings.momentum if settings.optimizer == "sgd" else 0.0, nesterov=True
    )
    return TrainResult(
        steps, steps * size, loss_sum / steps, triage_sum / steps, progress, gradient.micro_batch(size)
    )


def steps_on(data: TrainSet, settings: TrainingSettings) -> int:
    """Return the steps of a round on ``data``: what is trained, and what the privacy ledger counts."""
    if data.updates is not None:
        return max(1, round(data.updates / batch_size(len(data), settings)))
    return steps_of(len(data), settings) * (data.sources if settings.local_steps else 1)


class AddedGradient:
    """The gradient of what a method adds to the local loss: ``offset + mu * (w - w_t)``.

    ``w_t`` is where the model stands when this is made. Of FedProx (Li et al., MLSys 2020, Eq. 2) it is
    ``mu * (w - w_t)``. Buffers are not held.
    """

    def __init__(self, model: nn.Module, objective: LocalObjective) -> None:
        """Raise ValueError for an offset of another shape than its parameter's."""
        self._mu = objective.mu
        self._held: list[tuple[nn.Parameter, Tensor]] = []
        self._offsets: list[tuple[nn.Parameter, Tensor]] = []
        for name, parameter in model.named_parameters():
            offset = objective.offset.get(name)
            if offset is not None and offset.shape != tuple(parameter.shape):
                raise ValueError(f"the offset of {name} has shape {list(offset.shape)}; update the server")
            if offset is not None:
                self._offsets.append((parameter, torch.as_tensor(np.array(offset)).to(parameter)))
            if self._mu > 0 and parameter.requires_grad:
                self._held.append((parameter, parameter.detach().clone()))

    def apply(self) -> None:
        """Add it to the parameters' gradients: all at once, since a GPU waits for each call of many."""
        with torch.no_grad():
            for pairs, held in ((self._offsets, False), (self._held, True)):
                moved = [(parameter, one) for parameter, one in pairs if parameter.grad is not None]
                if not moved:
                    continue
                parameters, others = ([*column] for column in zip(*moved, strict=True))
                gradients = [parameter.grad for parameter in parameters]
                if held:
                    torch._foreach_add_(gradients, torch._foreach_sub(parameters, others), alpha=self._mu)
                else:
                    torch._foreach_add_(gradients, others)


def initial_loss(model: Heads, data: TrainSet, settings: TrainingSettings) -> float:
    """Return the model's mean loss per drawn image, without augmentation or dropout."""
    device = next(model.parameters()).device
    model.eval()
    terms = _terms(model, data, settings, np.arange(len(data)), device)
    total = torch.zeros((), dtype=torch.float64, device=device)

    def add(part: slice) -> None:
        """Add the weighted losses of a part of the images."""
        chosen = np.arange(part.start, part.stop)
        classes = torch.from_numpy(data.classes[chosen]).to(device)
        with autocast(device, settings.precision):
            known = None if data.metadata is None else data.metadata.of(chosen).to(device)
            logits = model(next(views_of(data.batch(chosen), 1, device)), known)
        further = _further_labels(data, chosen, settings, device)
        _, loss = image_losses(model.scheme, logits, classes, terms[part], settings, further)
        total.add_((loss.double() * torch.from_numpy(data.weights[chosen]).to(device)).sum())

    limit = MemoryLimit(model, "scoring", side_of(data.images[0]), settings.precision)
    with torch.inference_mode():
        in_parts(limit, len(data), settings.batch_size, add)
    return float(total) / float(data.weights.sum())


def _terms(
    model: Heads,
    data: TrainSet,
    settings: TrainingSettings,
    rows: npt.NDArray[np.int64],
    device: torch.device,
) -> Tensor:
    """Return what the loss takes of the images at ``rows`` (n,) beside their classes, (n, 6)."""
    found = loss_terms(data.drawn, data.classes, model.scheme, settings)
    return torch.from_numpy(found[rows]).float().to(device)


def _further_labels(
    data: TrainSet, rows: npt.NDArray[np.int64], settings: TrainingSettings, device: torch.device
) -> FurtherLabels:
    """Return the labels of further heads of ``rows`` (n,), on the device."""
    patterns = None if data.patterns is None else torch.from_numpy(data.patterns[rows]).float().to(device)
    if data.diagnoses is None:
        return FurtherLabels(patterns)
    shifts = diagnosis_shifts(data.diagnoses.drawn[rows], settings)
    return FurtherLabels(
        patterns,
        torch.from_numpy(data.diagnoses.labels[rows]).to(device),
        torch.from_numpy(shifts).float().to(device),
    )


def _training_mode(model: nn.Module, settings: TrainingSettings, batch: int) -> None:
    model.train()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if settings.norm_statistics == "frozen":
        for norm in norms:
            norm.eval()
    elif norms and batch < 2:
        raise ValueError(
            "training.norm_statistics: local needs batches of two images or more; raise training.batch_size, "
            "or set it to frozen"
        )


def _check_finite(total: Tensor, stretch: Stretch, step: int) -> None:
    if not bool(torch.isfinite(total).all()):
        raise ValueError(
            f"the loss is not finite by step {step + 1} of round {stretch.round}; lower "
            "training.learning_rate or training.clip_norm, or look for broken images at this site"
        )
