"""q-FedAvg: sites that the global model serves badly count for more.

Li et al., "Fair Resource Allocation in Federated Learning", ICLR 2020, Algorithm 2; the aggregation is
Flower's. ``q = 0`` weighs all sites alike; ``client_learning_rate`` is the paper's 1 / L. Sites report the
loss of the model that they were sent, not the mean over their training.
"""

from typing import Any, ClassVar

from flwr.serverapp.strategy import QFedAvg

from strategies.site_side import SiteSide

INITIAL_LOSS = "initial-loss"


class ReportsInitialLoss(SiteSide):
    """The site's part: the global model's loss on its training images, before training."""

    needs_initial_loss = True


class FairFedAvg(QFedAvg):
    """Flower's q-FedAvg, fed with the loss it is defined by."""

    site_side: ClassVar[type[SiteSide]] = ReportsInitialLoss
    extrapolates: ClassVar[bool] = True
    reply_metrics: ClassVar[tuple[str, ...]] = (INITIAL_LOSS,)

    def __init__(self, *, client_learning_rate: float, q: float = 0.1, **parameters: Any) -> None:
        """Raise ValueError for a rate that is not above zero or a negative ``q``."""
        if not client_learning_rate > 0 or not q >= 0:
            raise ValueError(
                "client_learning_rate must be above zero and q zero or above, not "
                f"{client_learning_rate} and {q}"
            )
        super().__init__(client_learning_rate, q, INITIAL_LOSS, **parameters)
