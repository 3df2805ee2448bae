"""SCAFFOLD: control variates that take a site's drift out of its steps.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020, Algorithm
1 with option II. A site steps along ``g - c_i + c``; afterwards its variate is the mean gradient that it
met, ``c_i + (x - y_i) / (K eta) - c``. The server moves by ``eta_g`` times the mean of the updates, and its
variate by the mean of the variates' changes over all sites, those that did not take part included.

The paper weighs sites alike; with other weights p_i both means are weighted by them, and c stays ``sum p_i
c_i``.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from strategies.arrays import to_record
from strategies.fedavg import FEDERATION_WEIGHT, FromGlobalModel
from strategies.running_mean import RunningMean
from strategies.site_side import LocalObjective, LocalWork, NDArrays, Outcome, SiteSide, zeros

CONTROL = "control"
"""The record with the server's variate on the way down, and with a site's change of its own on the way up."""


def next_variate(
    own: Mapping[str, NDArray[Any]], server: Mapping[str, NDArray[Any]], work: LocalWork
) -> NDArrays:
    """Return a site's variate after a round: ``c_i - c + (x - y_i) / (K eta)``, by parameter (option II).

    ``work.progress`` stands for ``K eta``: with one learning rate and no momentum it is that product.
    """
    found = {}
    for name, start in work.start.items():
        mean_gradient = (start.astype(np.float64) - work.end[name]) / work.progress[name]
        found[name] = (own[name] - server[name] + mean_gradient).astype(start.dtype)
    return found


def server_step(start: Mapping[str, NDArray[Any]], mean: Mapping[str, NDArray[Any]], rate: float) -> NDArrays:
    """Return ``x + rate * (mean - x)``; with a rate of 1 that is the mean."""
    return {
        name: (values + rate * (mean[name] - values)).astype(values.dtype) for name, values in start.items()
    }


class ControlVariates(SiteSide):
    """The site's part: its variate, zero before its first round."""

    needs_sgd = True
    stateful = True

    def objective(
        self, sent: Mapping[str, Any], control: Mapping[str, NDArray[Any]], state: Mapping[str, NDArray[Any]]
    ) -> LocalObjective:
        """Return the offset ``c - c_i`` of every gradient."""
        del sent
        return LocalObjective(offset={name: values - state.get(name, 0) for name, values in control.items()})

    def outcome(
        self,
        sent: Mapping[str, Any],
        control: Mapping[str, NDArray[Any]],
        state: Mapping[str, NDArray[Any]],
        work: LocalWork,
    ) -> Outcome:
        """Return the new variate, to be kept, and its change, to be sent (zero for running statistics)."""
        del sent
        own = {name: state.get(name, np.zeros_like(values)) for name, values in work.start.items()}
        new = next_variate(own, control, work)
        change = {**zeros(control), **{name: values - own[name] for name, values in new.items()}}
        return Outcome(state=new, sent={CONTROL: change})


class Scaffold(FromGlobalModel):
    """The server's part. ``server_learning_rate`` is the paper's eta_g."""

    site_side = ControlVariates
    extrapolates = True
    memory = ("variate",)
    reply_records = (CONTROL,)

    def __init__(self, *, server_learning_rate: float = 1.0, **parameters: Any) -> None:
        """Raise ValueError for a rate that is not above zero."""
        if not (math.isfinite(server_learning_rate) and server_learning_rate > 0):
            raise ValueError(f"server_learning_rate must be above zero, not {server_learning_rate}")
        super().__init__(**parameters)
        self.server_learning_rate = server_learning_rate
        self.variate: NDArrays | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return FedAvg's messages with the server's variate beside the model."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.variate = self.variate or zeros(self.sent_model)
        control = to_record(self.variate)
        for message in messages:
            message.content[CONTROL] = control
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next model, and take over the mean change of the variates."""
        del server_round
        models, changes, whole = RunningMean(wide=True), RunningMean(wide=True), 0.0
        for update in self.updates(replies):
            weight = update.metrics[self.weighted_by_key]
            models.add(update.arrays, weight)
            changes.add(update.records[CONTROL], weight)
            whole = update.metrics[FEDERATION_WEIGHT]
            del update
        if not models.weight:
            return None, None
        # Sites that did not take part keep their variates: the mean over all of them moves by less.
        part = changes.weight / max(whole, changes.weight)
        variate = self.variate or zeros(self.sent_model)
        change = changes.exact()
        self.variate = {
            name: (values + part * change[name]).astype(values.dtype) for name, values in variate.items()
        }
        return (
            to_record(server_step(self.sent_model, models.exact(), self.server_learning_rate)),
            MetricRecord({"weight": models.weight}),
        )
