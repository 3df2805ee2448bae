"""A network's state as named NumPy arrays, and back."""

import numpy as np
import torch
from torch import nn

from fedderm.weights import Arrays


def to_arrays(model: nn.Module) -> Arrays:
    """Return copies of the model's parameters and buffers, in state-dict order."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def load_arrays(model: nn.Module, arrays: Arrays) -> None:
    """Copy ``arrays`` into the model; raises ValueError where names or shapes differ."""
    state = {
        name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in arrays.items()
    }
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the weights do not fit the model of the config: {reason}") from error


def features_of(arrays: Arrays) -> int:
    """Return the number of features that heads take; raises ValueError where there is no triage head."""
    if "triage.weight" not in arrays or arrays["triage.weight"].ndim != 2:
        raise ValueError("the weights do not fit the model of the config: they hold no triage head")
    return int(arrays["triage.weight"].shape[1])
