"""What comes in during a round: each reply checked, noted, and reduced to what a strategy needs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from strategies.arrays import ArraySpec, averaged, is_averaged, records, view
from strategies.catalogue import WEIGHT
from strategies.errors import ReplyRefused
from strategies.exchange import Member, Reply
from strategies.guard import ARRAYS, LOSS, METRICS, NUM_EXAMPLES, check_train_reply, number

SiteMetrics = dict[str, int | float | list[int] | list[float]]

Weighting = Literal["examples", "effective", "equal"]

EFFECTIVE = "effective-examples"
"""The metric with a site's effective number of images: 4 P N / (P + N) for P malignant and N benign ones."""


@dataclass
class Tally:
    """What has been taken in while the replies stream past; ``checked`` fills it."""

    expected: Mapping[str, ArraySpec]
    weighting: Weighting
    carried: dict[str, NDArray[Any]] = field(default_factory=dict)
    metrics: dict[str, SiteMetrics] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    bytes_up: int = 0


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
    check_train_reply(reply.message.content, tally.expected, reply.member)
    if tally.weighting == "effective":
        number(records(reply.message.content, MetricRecord)[METRICS], EFFECTIVE, reply.member)


def _accept(reply: Reply, tally: Tally) -> Message:
    """Return the checked message with the averaged arrays and one weight; take over the rest of it."""
    message, reply.message = reply.message, None
    if message is None:
        raise RuntimeError("only a checked reply can be accepted")
    arrays = records(message.content, ArrayRecord)[ARRAYS]
    metrics = records(message.content, MetricRecord)[METRICS]
    tally.metrics[reply.member.name] = dict(metrics.items())
    for name, spec in tally.expected.items():
        if not is_averaged(spec):
            values = view(arrays[name])
            tally.carried[name] = np.maximum(tally.carried[name], values) if name in tally.carried else values
    examples = number(metrics, NUM_EXAMPLES, reply.member)
    # The same three keys for every site: Flower refuses a whole round where one site reports another set.
    reduced = MetricRecord(
        {
            WEIGHT: _weight(tally.weighting, metrics, reply.member, examples),
            NUM_EXAMPLES: examples,
            LOSS: number(metrics, LOSS, reply.member),
        }
    )
    message.content = RecordDict({ARRAYS: averaged(arrays, tally.expected), METRICS: reduced})
    return message


def _weight(weighting: Weighting, metrics: MetricRecord, member: Member, examples: float) -> float:
    """Return a reply's weight. The effective number that a site reports may not exceed its images."""
    if weighting != "effective":
        return examples if weighting == "examples" else 1.0
    return min(max(number(metrics, EFFECTIVE, member), 1e-6), examples)


def size(content: RecordDict) -> int:
    """Return the bytes of a message's records, as Flower counts them."""
    return sum(record.count_bytes() for record in content.values())
