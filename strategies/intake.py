"""What comes in during a round: each reply checked, noted, and reduced to what a strategy needs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from strategies.arrays import ArraySpec, averaged, averaged_specs, is_averaged, records, size, view
from strategies.catalogue import WEIGHT
from strategies.errors import QuorumLost, ReplyRefused
from strategies.exchange import Member, Reply
from strategies.fedavg import FEDERATION_WEIGHT
from strategies.guard import (
    ARRAYS,
    LOSS,
    METRICS,
    NUM_EXAMPLES,
    SERVER_ROUND,
    Demands,
    check_round,
    check_train_reply,
    number,
)
from strategies.half_precision import on_the_way, restored
from strategies.running_mean import RunningMean

SiteMetrics = dict[str, int | float | list[int] | list[float]]

Weighting = Literal["examples", "effective", "equal"]


@dataclass
class Tally:
    """What has been taken in while the replies stream past; ``checked`` fills it."""

    expected: Mapping[str, ArraySpec]
    weights: Mapping[str, float]
    """Site to its weight, for all training sites."""
    round: int
    """The round that the replies must be for."""
    demands: Demands = field(default_factory=Demands)
    around: frozenset[str] = frozenset()
    """Floating-point arrays that go around the strategy: their next value is the weighted mean."""
    halved: frozenset[str] = frozenset()
    """Arrays of which a reply holds the update, in float16."""
    masters: Mapping[str, ArrayRecord] = field(default_factory=dict)
    """Site to the model that its updates are added to; only where arrays are halved."""
    carried: dict[str, NDArray[Any]] = field(default_factory=dict)
    mean: RunningMean = field(default_factory=RunningMean)
    metrics: dict[str, SiteMetrics] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    bytes_up: int = 0

    def others(self) -> dict[str, NDArray[Any]]:
        """Return the next values of all arrays that went around the strategy."""
        return {**self.carried, **(self.mean.result() if self.around and self.metrics else {})}

    def require_quorum(self, asked: Sequence[Member], quorum: float) -> None:
        """Return if the replies of this fraction of the asked sites count; otherwise raise QuorumLost."""
        needed = max(1, ceil(quorum * len(asked) - 1e-9))
        if len(self.metrics) >= needed:
            return
        reasons = "; ".join(self.refused[member.name] for member in asked if member.name in self.refused)
        raise QuorumLost(
            f"round {self.round}: {len(self.metrics)} of {len(asked)} sites gave a usable reply and "
            f"{needed} are needed (quorum {quorum:g}): {reasons}; "
            "finished rounds are kept: mend these sites, or lower the quorum, and resume the run"
        )


def weight_of(member: Member, weighting: Weighting) -> float:
    """Return a site's weight: its images, their effective number (never above its images), or one.

    Raises ValueError where a site has not said its effective number.
    """
    if weighting != "effective":
        return float(member.num_examples) if weighting == "examples" else 1.0
    if member.effective is None:
        raise ValueError(f"site {member.name}: has not said its effective number of images")
    return min(max(member.effective, 1e-6), float(member.num_examples))


def checked(replies: Iterator[Reply], tally: Tally) -> Iterator[Message]:
    """Yield the replies that count, reduced to what a strategy needs; note the others in the tally.

    No frame here keeps a reply once it is yielded.
    """
    for reply in replies:
        try:
            _check(reply, tally)
        except ReplyRefused as error:
            tally.refused[reply.member.name] = str(error)
            reply.message = None
        else:
            yield _accept(reply, tally)


def _check(reply: Reply, tally: Tally) -> None:
    if reply.message is None:
        raise ReplyRefused(reply.reason or f"site {reply.member.name}: no reply")
    tally.bytes_up += size(reply.message.content)
    check_round(reply.message.content, tally.round, reply.member)
    wanted = on_the_way(tally.expected, tally.halved)
    check_train_reply(reply.message.content, wanted, reply.member, tally.demands)


def _accept(reply: Reply, tally: Tally) -> Message:
    """Return the message with the averaged arrays in the model's order and a weight; take the rest over."""
    message, reply.message = reply.message, None
    if message is None:
        raise RuntimeError("only a checked reply can be accepted")
    received = records(message.content, ArrayRecord)
    arrays = received[ARRAYS]
    if tally.halved:
        arrays = restored(arrays, tally.masters[reply.member.name], tally.halved)
    metrics = records(message.content, MetricRecord)[METRICS]
    tally.metrics[reply.member.name] = {
        name: value for name, value in metrics.items() if name != SERVER_ROUND
    }
    weight = tally.weights[reply.member.name]
    if tally.around:
        tally.mean.add(
            {name: view(arrays.pop(name)) for name in tally.expected if name in tally.around}, weight
        )
    for name, spec in tally.expected.items():
        if not is_averaged(spec):
            values = view(arrays.pop(name))  # copied below: a view would keep the whole reply in memory
            tally.carried[name] = np.maximum(tally.carried.get(name, values), values)
    # In the model's order, whatever the site's: several strategies go through two models by place.
    if list(arrays) != list(seen := averaged_specs(tally.expected, tally.around)):
        arrays = averaged(arrays, seen)
    # The same keys for every site: Flower refuses a whole round where one site reports another set.
    wanted = (NUM_EXAMPLES, LOSS, *tally.demands.metrics)
    reduced = MetricRecord(
        {
            WEIGHT: weight,
            FEDERATION_WEIGHT: sum(tally.weights.values()),
            **{key: number(metrics, key, reply.member) for key in wanted},
        }
    )
    message.content = RecordDict(
        {
            ARRAYS: arrays,
            **{name: received[name] for name in tally.demands.records},
            METRICS: reduced,
        }
    )
    return message
