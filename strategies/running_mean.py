"""The weighted mean of models that come one after the other, in the memory of one."""

from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from strategies.blocks import over_blocks

NDArrays = dict[str, NDArray[Any]]

_APART: Final = 64
"""Arrays begin a multiple of so many bytes apart, so that each is aligned as its type asks for."""


class RunningMean:
    """The weighted mean of models so far: ``mean += (w / W) * (model - mean)``, ``W`` their total weight.

    Memory is one model, however many are added (West, "Updating Mean and Variance Estimates", CACM 1979). In
    this form, unlike ``sum(w * model) / W``, the mean of equal models is that model exactly. It is kept in
    single precision for models of single or half precision, as Flower's FedAvg adds, or with ``wide`` in
    double precision: for methods that take the difference of the mean and another model. The order of
    additions is fixed by the caller.
    """

    def __init__(self, *, wide: bool = False) -> None:
        self.weight = 0.0
        self._least = np.float64 if wide else np.float32
        self._mean: NDArrays = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}

    def add(self, model: Mapping[str, NDArray[Any]], weight: float) -> None:
        """Add a model with a weight above zero. Raises ValueError for another weight or other arrays."""
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"a weight must be positive and finite, not {weight}")
        if self._mean and model.keys() != self._mean.keys():
            raise ValueError("a model with other arrays cannot join the mean")
        self.weight += weight
        if not self._mean:
            self._open(model)
            return
        share = weight / self.weight

        def approach(mean: NDArray[Any], values: NDArray[Any]) -> None:
            """Move a block of the mean towards the new values, in place."""
            step = np.subtract(values, mean, dtype=mean.dtype)
            step *= share
            mean += step

        for name, values in model.items():
            over_blocks(approach, self._mean[name], values)

    def _open(self, model: Mapping[str, NDArray[Any]]) -> None:
        """Let the mean be a copy of the first model."""
        room = _room({name: (one.shape, np.result_type(one, self._least)) for name, one in model.items()})
        for name, values in model.items():
            over_blocks(np.copyto, room[name], values)
        self._mean, self._dtypes = room, {name: values.dtype for name, values in model.items()}

    def exact(self) -> NDArrays:
        """Return the mean as it was kept and forget it. Raises ValueError where no model was added."""
        if not self._mean:
            raise ValueError("the mean of no models is undefined")
        return {name: self._mean.pop(name) for name in list(self._mean)}

    def result(self) -> NDArrays:
        """Return the mean in the models' dtypes and forget it. Raises ValueError where no model was added."""
        return {name: values.astype(self._dtypes[name], copy=False) for name, values in self.exact().items()}


def _room(wanted: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> NDArrays:
    """Return arrays of the wanted shapes and dtypes, not filled, in one piece of memory.

    The system maps a large piece in large pages: to open the mean, a ViT-B/16 takes a third longer where each
    array lies by itself (docs/performance.md). A single one of them keeps all in memory.
    """
    sizes = {name: prod(shape) * dtype.itemsize for name, (shape, dtype) in wanted.items()}
    takes = {name: -(-size // _APART) * _APART for name, size in sizes.items()}
    piece = np.empty(sum(takes.values()), np.uint8)
    found: NDArrays = {}
    for name, (shape, dtype) in wanted.items():
        found[name], piece = piece[: sizes[name]].view(dtype).reshape(shape), piece[takes[name] :]
    return found
