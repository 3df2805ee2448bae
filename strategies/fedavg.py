"""FedAvg: the example-weighted mean of the sites' models, taken as they come.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
Algorithm 1.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from strategies.arrays import records, to_record, view
from strategies.guard import ARRAYS
from strategies.running_mean import RunningMean
from strategies.site_side import NDArrays, SiteSide

FEDERATION_WEIGHT = "federation-weight"
"""The metric with the weight of all training sites, those not drawn or not answering included."""


@dataclass(frozen=True)
class Update:
    """One site's checked reply: its arrays by record (views of the message), and its numbers."""

    records: Mapping[str, NDArrays]
    metrics: Mapping[str, float]

    @property
    def arrays(self) -> NDArrays:
        """The site's model."""
        return self.records[ARRAYS]


class StreamingFedAvg(FedAvg):
    """Flower's FedAvg that drops each reply once it is added; same mathematics, one partial sum of memory.

    Methods that differ from it in how the mean becomes the next model derive from it: they stream
    ``updates``.
    """

    site_side: ClassVar[type[SiteSide]] = SiteSide
    extrapolates: ClassVar[bool] = False
    """Whether the next model may lie outside of what the sites sent: running statistics then go around it."""
    memory: ClassVar[tuple[str, ...]] = ()
    """Attributes, each named arrays or None, that a resumed run needs."""
    reply_records: ClassVar[tuple[str, ...]] = ()
    """Records of a reply beside ``arrays``; each has the model's floating-point arrays, by name and shape."""
    reply_metrics: ClassVar[tuple[str, ...]] = ()
    """Numbers that a site must report beside loss and examples."""

    def updates(self, replies: Iterable[Message]) -> Iterator[Update]:
        """Yield each reply's arrays and numbers; a caller that lets go of one before the next keeps one
        alive."""
        for reply in replies:
            if reply.has_error():
                continue
            arrays = records(reply.content, ArrayRecord)
            metrics = next(iter(records(reply.content, MetricRecord).values()))
            numbers = {key: value for key, value in metrics.items() if not isinstance(value, list)}
            if self.weighted_by_key not in numbers:
                raise ValueError(f"{self.weighted_by_key} must be one number")
            update = Update(
                {name: {key: view(array) for key, array in one.items()} for name, one in arrays.items()},
                numbers,
            )
            # These variables would keep this reply alive while the next one is being fetched.
            del reply, arrays, metrics
            yield update
            del update

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the weighted mean of the replies' arrays and their number; (None, None) for none.

        Metrics of single sites are not averaged: a mean of per-site values is not the pooled value.
        """
        del server_round
        mean = RunningMean()
        count = 0
        for update in self.updates(replies):
            mean.add(update.arrays, update.metrics[self.weighted_by_key])
            count += 1
            del update
        if count == 0:
            return None, None
        return to_record(mean.result()), MetricRecord({"replies": count, "weight": mean.weight})


class FromGlobalModel(StreamingFedAvg):
    """FedAvg that remembers the model it sent: for methods that step from it."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.sent_model: NDArrays = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return FedAvg's messages."""
        self.sent_model = {name: view(array) for name, array in arrays.items()}
        return super().configure_train(server_round, arrays, config, grid)
