"""The weighted mean of models that come one after the other, in the memory of one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

NDArrays = dict[str, NDArray[Any]]


class RunningMean:
    """The weighted mean of models so far: ``mean += (w / W) * (model - mean)``, ``W`` their total weight.

    Memory is one model in float64, however many are added (West, "Updating Mean and Variance Estimates",
    CACM 1979). In this form, unlike ``sum(w * model) / W``, the mean of equal models is that model exactly.
    Double precision leaves no rounding that a float32 result could show; the order of additions is fixed by
    the caller.
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self._mean: NDArrays = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}

    def add(self, model: Mapping[str, NDArray[Any]], weight: float) -> None:
        """Add a model with a weight above zero. Raises ValueError for another weight or other arrays."""
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"a weight must be positive and finite, not {weight}")
        if self._mean and model.keys() != self._mean.keys():
            raise ValueError("a model with other arrays cannot join the mean")
        self.weight += weight
        for name, values in model.items():
            if name in self._mean:
                step = values - self._mean[name]
                step *= weight / self.weight
                self._mean[name] += step
            else:
                self._mean[name] = values.astype(np.float64)
                self._dtypes[name] = values.dtype

    def exact(self) -> NDArrays:
        """Return the mean in float64 and forget it. Raises ValueError where no model was added."""
        if not self._mean:
            raise ValueError("the mean of no models is undefined")
        return {name: self._mean.pop(name) for name in list(self._mean)}

    def result(self) -> NDArrays:
        """Return the mean in the models' dtypes and forget it. Raises ValueError where no model was added."""
        return {name: values.astype(self._dtypes[name]) for name, values in self.exact().items()}
