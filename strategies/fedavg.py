"""FedAvg: the example-weighted mean of the sites' models, taken as they come.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
Algorithm 1.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from strategies.arrays import records, view

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

    def result(self) -> NDArrays:
        """Return the mean in the models' dtypes and forget it. Raises ValueError where no model was added."""
        if not self._mean:
            raise ValueError("the mean of no models is undefined")
        return {name: self._mean.pop(name).astype(self._dtypes[name]) for name in list(self._mean)}


class StreamingFedAvg(FedAvg):
    """Flower's FedAvg that drops each reply once it is added; same mathematics, one partial sum of memory."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the weighted mean of the replies' arrays and their number; (None, None) for none.

        Metrics of single sites are not averaged: a mean of per-site values is not the pooled value.
        """
        del server_round
        mean = RunningMean()
        count = 0
        for reply in replies:
            if reply.has_error():
                continue
            arrays = next(iter(records(reply.content, ArrayRecord).values()))
            metrics = next(iter(records(reply.content, MetricRecord).values()))
            weight = metrics[self.weighted_by_key]
            if isinstance(weight, list):
                raise ValueError(f"{self.weighted_by_key} must be one number, not a list")
            mean.add({name: view(array) for name, array in arrays.items()}, weight)
            count += 1
            # The loop variable would keep this reply alive while the next one is being fetched.
            del reply, arrays, metrics
        if count == 0:
            return None, None
        record = ArrayRecord({name: Array(np.asarray(values)) for name, values in mean.result().items()})
        return record, MetricRecord({"replies": count, "weight": mean.weight})
