"""The optimiser of a local training, and its learning rates."""

import math

import torch

from fedderm.model.heads import Heads
from fedderm.training_settings import TrainingSettings


def rate_factors(model: Heads, settings: TrainingSettings) -> dict[str, float]:
    """Return the learning rate over the trunk's of each parameter that is trained."""
    heads = {id(parameter) for parameter in model.head_parameters()}
    return {
        name: settings.head_factor if id(parameter) in heads else 1.0
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def optimizer_of(model: Heads, settings: TrainingSettings, device: torch.device) -> torch.optim.Optimizer:
    """Return the optimizer; biases and the norms' scales, which have one dimension, do not decay."""
    groups = [
        {"params": chosen, "factor": factor, "weight_decay": settings.weight_decay if decays else 0.0}
        for parameters, factor in (
            (model.trunk_parameters(), 1.0),
            (model.head_parameters(), settings.head_factor),
        )
        for decays in (True, False)
        if (chosen := [one for one in parameters if (one.ndim > 1) == decays])
    ]
    on_gpu = device.type == "cuda"  # where one pass over the weights in place of many is what counts
    if settings.optimizer == "adamw":
        fused = on_gpu or settings.trunk == "frozen"
        return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        fused=on_gpu,
    )


def set_rate(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, done: float, warmth: float
) -> float:
    """Set each group's learning rate at ``done``, 0..1 of the whole training, times ``warmth``, 0..1.

    Return the trunk's.

    Every round warms up over a fifth of its steps: the optimiser starts each round without memory, and Adam's
    first steps are as long for noise as for signal.
    """
    rate = settings.learning_rate * warmth
    if settings.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate
