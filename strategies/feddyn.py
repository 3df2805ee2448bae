"""FedDyn: dynamic regularisation, so that the sites' optima agree with the federation's.

Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021, Algorithm 1. A site minimises
``F_k(w) - <g_k, w> + alpha / 2 * ||w - w_t||^2`` and then moves ``g_k`` by ``-alpha (w_k - w_t)``; the server
keeps ``h`` and returns ``mean(w_k) - h / alpha``.

The paper weighs sites alike; with other weights the means are weighted, and sites minimise the weighted sum.
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

ALPHA = "alpha"


def next_gradient(own: Mapping[str, NDArray[Any]], work: LocalWork, alpha: float) -> NDArrays:
    """Return a site's ``g_k - alpha (w_k - w_t)``: at a local optimum, the gradient of F_k there (Eq. 2)."""
    return {
        name: (own[name] - alpha * (work.end[name].astype(np.float64) - start)).astype(start.dtype)
        for name, start in work.start.items()
    }


def server_step(
    start: Mapping[str, NDArray[Any]],
    mean: Mapping[str, NDArray[Any]],
    memory: Mapping[str, NDArray[Any]],
    alpha: float,
    part: float,
) -> tuple[NDArrays, NDArrays]:
    """Return the next model ``mean - h / alpha`` and ``h - alpha * part * (mean - w_t)``.

    ``part``: the weight of the sites that took part, over that of all.
    """
    h = {name: values - alpha * part * (mean[name] - start[name]) for name, values in memory.items()}
    model = {name: (mean[name] - h[name] / alpha).astype(values.dtype) for name, values in start.items()}
    return model, {name: h[name].astype(values.dtype) for name, values in start.items()}


class DynamicRegulariser(SiteSide):
    """The site's part: ``g_k``, zero before its first round."""

    stateful = True

    def objective(
        self, sent: Mapping[str, Any], control: Mapping[str, NDArray[Any]], state: Mapping[str, NDArray[Any]]
    ) -> LocalObjective:
        """Return ``-<g_k, w> + alpha / 2 * ||w - w_t||^2``."""
        del control
        return LocalObjective(mu=float(sent[ALPHA]), offset={name: -values for name, values in state.items()})

    def outcome(
        self,
        sent: Mapping[str, Any],
        control: Mapping[str, NDArray[Any]],
        state: Mapping[str, NDArray[Any]],
        work: LocalWork,
    ) -> Outcome:
        """Return the new ``g_k``, to be kept; nothing more is sent."""
        del control
        own = {name: state.get(name, np.zeros_like(values)) for name, values in work.start.items()}
        return Outcome(state=next_gradient(own, work, float(sent[ALPHA])))


class FedDyn(FromGlobalModel):
    """The server's part. ``alpha`` is the paper's; large ones hold sites back, small ones amplify noise."""

    site_side = DynamicRegulariser
    extrapolates = True
    memory = ("correction",)

    def __init__(self, *, alpha: float = 0.01, **parameters: Any) -> None:
        """Raise ValueError for an ``alpha`` that is not above zero."""
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha must be above zero, not {alpha}")
        super().__init__(**parameters)
        self.alpha = float(alpha)
        self.correction: NDArrays | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return FedAvg's messages with ``alpha`` in their config."""
        config[ALPHA] = self.alpha
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next model, and remember ``h``."""
        del server_round
        models, whole = RunningMean(wide=True), 0.0
        for update in self.updates(replies):
            models.add(update.arrays, update.metrics[self.weighted_by_key])
            whole = update.metrics[FEDERATION_WEIGHT]
            del update
        if not models.weight:
            return None, None
        part = models.weight / max(whole, models.weight)
        model, self.correction = server_step(
            self.sent_model, models.exact(), self.correction or zeros(self.sent_model), self.alpha, part
        )
        return to_record(model), MetricRecord({"weight": models.weight})
