"""The weighted mean of models that come one after the other, in the memory of one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.blocks import over_blocks

NDArrays = dict[str, NDArray[Any]]


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
        share = weight / self.weight

        def approach(mean: NDArray[Any], values: NDArray[Any]) -> None:
            """Move a block of the mean towards the new values, in place."""
            step = np.subtract(values, mean, dtype=mean.dtype)
            step *= share
            mean += step

        for name, values in model.items():
            if name in self._mean:
                over_blocks(approach, self._mean[name], values)
            else:
                self._dtypes[name] = values.dtype
                self._mean[name] = np.empty(values.shape, np.result_type(values, self._least))
                over_blocks(np.copyto, self._mean[name], values)

    def exact(self) -> NDArrays:
        """Return the mean as it was kept and forget it. Raises ValueError where no model was added."""
        if not self._mean:
            raise ValueError("the mean of no models is undefined")
        return {name: self._mean.pop(name) for name in list(self._mean)}

    def result(self) -> NDArrays:
        """Return the mean in the models' dtypes and forget it. Raises ValueError where no model was added."""
        return {name: values.astype(self._dtypes[name], copy=False) for name, values in self.exact().items()}
