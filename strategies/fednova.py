"""FedNova: updates divided by how far each site went, so that long training does not buy influence.

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", NeurIPS
2020, Eq. 6: ``x + tau_eff * sum p_i (y_i - x) / tau_i`` with ``tau_i = ||a_i||_1`` and, as there,
``tau_eff = sum p_i tau_i``. Where all sites go equally far this is FedAvg.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray

from strategies.arrays import to_record
from strategies.fedavg import FromGlobalModel
from strategies.running_mean import RunningMean
from strategies.site_side import NDArrays, SiteSide

PROGRESS = "progress"
"""The metric with a site's ||a_i||_1, in units of the learning rate."""


def accumulated_rate(rates: Sequence[float], momentum: float = 0.0, nesterov: bool = False) -> float:
    """Return ``||a||_1``: how far SGD goes along a gradient of one, all ``rates`` and momentum added up.

    A gradient of step j moves the weights by ``rate_k * momentum^(k - j)`` in every later step k; Nesterov's
    form by ``rate_j`` at once and by ``momentum`` times that sum. Plain SGD: the sum of the rates.
    """
    repeated, found = 0.0, 0.0
    for rate in rates:
        repeated = momentum * repeated + 1.0
        found += rate * (1.0 + momentum * repeated if nesterov else repeated)
    return found


def normalised_step(
    start: Mapping[str, NDArray[Any]],
    mean: Mapping[str, NDArray[Any]],
    reciprocal: float,
    progress: float,
) -> NDArrays:
    """Return ``x + tau_eff * sum p_i (y_i - x) / tau_i``.

    ``mean``: of the ``y_i`` with weights ``p_i / tau_i``; ``reciprocal``: their sum; ``progress``: tau_eff.
    """
    scale = progress * reciprocal
    return {
        name: (values + scale * (mean[name] - values)).astype(values.dtype) for name, values in start.items()
    }


class Progress(SiteSide):
    """The site's part: it reports how far it went, as every site does; the steps must be SGD's."""

    needs_sgd = True


class FedNova(FromGlobalModel):
    """The server's part; one partial sum of memory, as FedAvg."""

    site_side = Progress
    extrapolates = True
    reply_metrics = (PROGRESS,)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next model. Raises ValueError where a site reports no progress."""
        del server_round
        models, total, gone = RunningMean(wide=True), 0.0, 0.0
        for update in self.updates(replies):
            weight, progress = update.metrics[self.weighted_by_key], update.metrics[PROGRESS]
            models.add(update.arrays, weight / progress)
            total += weight
            gone += weight * progress
            del update
        if not total:
            return None, None
        reciprocal = models.weight / total
        model = normalised_step(self.sent_model, models.exact(), reciprocal, gone / total)
        return to_record(model), MetricRecord({"weight": total})
