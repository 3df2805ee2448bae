"""What a strategy remembers from round to round, as named arrays for a file beside the round's model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from strategies.catalogue import memory_of
from strategies.site_side import NDArrays

_PLACE = "#"
"""Begins the name of a list's entry: FedAvgM keeps its momentum in a list, others keep theirs by name."""


def remembered(strategy: Strategy, name: str) -> NDArrays:
    """Return the memory of the strategy called ``name``, ``attribute/array`` to values; empty where none."""
    found: NDArrays = {}
    for attribute in memory_of(name):
        value = getattr(strategy, attribute)
        if isinstance(value, Mapping):
            found |= {f"{attribute}/{key}": np.asarray(array) for key, array in value.items()}
        elif value is not None:
            found |= {f"{attribute}/{_PLACE}{place}": np.asarray(one) for place, one in enumerate(value)}
    return found


def restore(strategy: Strategy, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Give a fresh strategy back what ``remembered`` returned; raises ValueError for a stranger's memory."""
    known = memory_of(name)
    parts: dict[str, NDArrays] = {}
    for key, values in arrays.items():
        attribute, _, rest = key.partition("/")
        if attribute not in known:
            raise ValueError(f"strategy {name} keeps no {attribute}; the file belongs to another run")
        parts.setdefault(attribute, {})[rest] = np.array(values)
    for attribute, part in parts.items():
        in_order = all(key.startswith(_PLACE) for key in part)
        setattr(
            strategy,
            attribute,
            [part[f"{_PLACE}{place}"] for place in range(len(part))] if in_order else part,
        )
