"""FedProx: local objectives tethered to the global model.

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, Eq. 2: a site minimises
``F_k(w) + mu / 2 * ||w - w_t||^2``. The server aggregates as FedAvg does; it only tells the sites ``mu``.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from strategies.fedavg import StreamingFedAvg
from strategies.site_side import LocalObjective, SiteSide

PROXIMAL_MU = "proximal-mu"


class Tethered(SiteSide):
    """The site's part: a tether of strength ``proximal-mu``."""

    def objective(
        self, sent: Mapping[str, Any], control: Mapping[str, NDArray[Any]], state: Mapping[str, NDArray[Any]]
    ) -> LocalObjective:
        """Return ``mu / 2 * ||w - w_t||^2``."""
        del control, state
        return LocalObjective(mu=float(sent[PROXIMAL_MU]))


class StreamingFedProx(StreamingFedAvg):
    """StreamingFedAvg that sends ``proximal-mu`` with every round; ``proximal_mu = 0`` is FedAvg."""

    site_side = Tethered

    def __init__(self, *, proximal_mu: float, **parameters: Any) -> None:
        """Raise ValueError for a negative or non-finite ``proximal_mu``."""
        if not (math.isfinite(proximal_mu) and proximal_mu >= 0):
            raise ValueError(f"proximal_mu must be zero or above, not {proximal_mu}")
        super().__init__(**parameters)
        self.proximal_mu = float(proximal_mu)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return FedAvg's messages with ``proximal-mu`` in their config."""
        config[PROXIMAL_MU] = self.proximal_mu
        return super().configure_train(server_round, arrays, config, grid)
