"""A network's state as named NumPy arrays, and back; which of them are what."""

import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedderm.model.heads import Heads
from fedderm.weights import Arrays
from strategies.names import some
from strategies.site_side import Keeps


def to_arrays(model: nn.Module) -> Arrays:
    """Return copies of the model's parameters and buffers, in state-dict order."""
    return {name: array.copy() for name, array in shown_arrays(model).items()}


def shown_arrays(model: nn.Module) -> Arrays:
    """Return the same without a copy where the model is on the CPU: they change when the model does."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def load_arrays(
    model: nn.Module, arrays: Mapping[str, npt.NDArray[np.generic]], *, part: bool = False
) -> None:
    """Copy ``arrays`` into the model, all of it or, with ``part``, some of it.

    Raises ValueError, before anything is copied, where names or shapes differ, or PyTorch has no such
    numbers. Its own ``load_state_dict`` asks every module for its part of every array, and takes twice as
    long: every message brings a model.
    """
    state = model.state_dict()
    misfit = _misfit(state, arrays, part)
    if misfit:
        raise ValueError(f"the weights do not fit the model of the config: {misfit}")
    with warnings.catch_warnings(), torch.no_grad():
        # A message's arrays cannot be written to, and nothing is.
        warnings.filterwarnings(
            "ignore", message="The given NumPy array is not writable", category=UserWarning
        )
        try:
            given = {
                name: torch.from_numpy(np.require(array, requirements="C")) for name, array in arrays.items()
            }
        except TypeError as error:
            raise ValueError(f"the weights do not fit the model of the config: {error}") from error
        for name, values in given.items():
            state[name].copy_(values)


def _misfit(
    state: Mapping[str, torch.Tensor], arrays: Mapping[str, npt.NDArray[np.generic]], part: bool
) -> str:
    """Return in words why ``arrays`` are not those of ``state``; "" where they are."""
    lacking = [] if part else [name for name in state if name not in arrays]
    unknown = [name for name in arrays if name not in state]
    found = [f"it has no {some(unknown)}"] if unknown else []
    found += [f"they lack {some(lacking)}"] if lacking else []
    for name in () if unknown else arrays:
        here, there = tuple(state[name].shape), arrays[name].shape
        if here != there:
            found.append(f"{name} is {list(there)} where it has {list(here)}")
            break
    return "; ".join(found)


def parameter_arrays(model: nn.Module) -> Arrays:
    """Return copies of what is trained, without running statistics and what is frozen."""
    trained = (pair for pair in model.named_parameters() if pair[1].requires_grad)
    return {name: one.detach().cpu().numpy().copy() for name, one in trained}


def statistics_of(model: nn.Module) -> list[str]:
    """Return the names of floating-point arrays that are not trained: running means and variances."""
    trained = {name for name, _ in model.named_parameters()}
    return [
        name
        for name, tensor in model.state_dict().items()
        if name not in trained and tensor.is_floating_point()
    ]


def own_names(model: Heads, keeps: Keeps) -> list[str]:
    """Return the names of the arrays that a site keeps as its own, found by the type of their module."""
    if keeps == "heads":
        return [f"{name}.{key}" for name, head in model.heads() for key in head.state_dict()]
    return list(_batch_norm_names(model, statistics_only=keeps == "norm-statistics"))


def _batch_norm_names(model: nn.Module, *, statistics_only: bool) -> Iterator[str]:
    for prefix, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            chosen = dict(module.named_buffers(recurse=False)) if statistics_only else module.state_dict()
            yield from (f"{prefix}.{key}" for key in chosen)


def features_of(arrays: Arrays) -> int:
    """Return the number of features that heads take; raises ValueError where there is no triage head."""
    if "triage.weight" not in arrays or arrays["triage.weight"].ndim != 2:
        raise ValueError("the weights do not fit the model of the config: they hold no triage head")
    return int(arrays["triage.weight"].shape[1])
