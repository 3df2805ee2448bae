"""One guarded round of training: who takes part, what they are sent, whose answers count."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from strategies.arrays import (
    ArraySpec,
    NumPyArray,
    averaged,
    averaged_specs,
    merged,
    records,
    size,
    specs,
    to_record,
    view,
)
from strategies.catalogue import extrapolates
from strategies.chosen import ChosenNodes
from strategies.cyclic import CyclicTransfer
from strategies.exchange import Event, Member, Reply, exchange
from strategies.fedavg import StreamingFedAvg
from strategies.guard import ARRAYS, CONFIG, Demands, check_aggregate
from strategies.half_precision import halved, halved_names
from strategies.intake import SiteMetrics, Tally, checked, weight_of
from strategies.round_settings import RoundSettings, draw


@dataclass(frozen=True)
class RoundResult:
    """What a round leaves: the next global model, and what each asked site did."""

    arrays: ArrayRecord
    metrics: dict[str, SiteMetrics]
    """Site to its own metrics, for the sites whose replies count; never averaged."""
    refused: dict[str, str]
    """Site to the sentence why its reply does not count."""
    seconds: float
    bytes_down: int
    bytes_up: int


def train_round(
    strategy: Strategy,
    grid: Grid,
    number_of_round: int,
    arrays: ArrayRecord,
    config: ConfigRecord,
    members: Sequence[Member],
    settings: RoundSettings,
    on_event: Callable[[Event], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    *,
    private: Mapping[str, Mapping[str, int | str]] | None = None,
    statistics: frozenset[str] = frozenset(),
) -> RoundResult:
    """Return the next global model after one round over ``members``, the training sites in site order.

    Only drawn members are sent ``train``; the strategy sees no other node. Replies are checked
    (``guard.check_train_reply``) and reach the strategy in site order; refused ones are left out and named
    in the result. Arrays that are not floating point (BatchNorm's ``num_batches_tracked``) go around the
    strategy: their next value is the maximum over the sites, which is exact, keeps the dtype and never
    falls. ``statistics`` names the running means and variances: a strategy that extrapolates does not see
    them either, their next value is the weighted mean. ``private`` has config values for one site's eyes
    only, by its name. ``CyclicTransfer`` asks one site after the other. With ``settings.exchange`` float16
    large arrays travel as ``half_precision`` says; a strategy is shown float32 all the same.

    Raises QuorumLost where too few replies count, AggregateRefused where the strategy's result cannot be a
    model, Interrupted where ``should_stop`` says so. The model passed in is not changed, so a caller that
    stored it can start the round again.
    """
    start = time.monotonic()
    asked = draw(members, settings, number_of_round)
    expected = specs(arrays)
    the_round = _Round(
        strategy=strategy,
        grid=grid,
        number=number_of_round,
        expected=expected,
        config=config,
        private=private or {},
        weights={member.name: weight_of(member, settings.weighting) for member in members},
        settings=settings,
        on_event=on_event,
        should_stop=should_stop,
        around=statistics if extrapolates(strategy) else frozenset(),
        halved=halved_names(expected, settings.exchange, statistics),
    )
    hold = _in_turn if isinstance(strategy, CyclicTransfer) else _at_once
    next_arrays, tally, bytes_down = hold(the_round, arrays, asked)
    return RoundResult(
        arrays=next_arrays,
        metrics=tally.metrics,
        refused=tally.refused,
        seconds=time.monotonic() - start,
        bytes_down=bytes_down,
        bytes_up=tally.bytes_up,
    )


@dataclass(frozen=True, kw_only=True)
class _Round:
    """What every step of a round needs to know."""

    strategy: Strategy
    grid: Grid
    number: int
    expected: Mapping[str, ArraySpec]
    config: ConfigRecord
    private: Mapping[str, Mapping[str, int | str]]
    weights: Mapping[str, float]
    settings: RoundSettings
    on_event: Callable[[Event], None] | None
    should_stop: Callable[[], bool] | None
    around: frozenset[str]
    halved: frozenset[str]

    def seen(self) -> dict[str, ArraySpec]:
        """Return the arrays that the strategy sees."""
        return averaged_specs(self.expected, self.around)

    def tally(self) -> Tally:
        """Return an empty tally with what this round's replies must hold."""
        demanded = getattr(self.strategy, "reply_records", ())
        numbers = getattr(self.strategy, "reply_metrics", ())
        demands = Demands({name: self.seen() for name in demanded}, tuple(numbers))
        return Tally(self.expected, self.weights, self.number, demands, self.around, self.halved)

    def ask(self, requests: Sequence[tuple[Member, RecordDict]]) -> Iterator[Reply]:
        """Send the requests and yield their replies in the same order."""
        return exchange(
            self.grid,
            requests,
            MessageType.TRAIN,
            self.settings.deadline_s,
            self.on_event,
            should_stop=self.should_stop,
            retries=self.settings.retries,
            group=str(self.number),
        )


def _at_once(
    the_round: _Round, arrays: ArrayRecord, asked: Sequence[Member]
) -> tuple[ArrayRecord, Tally, int]:
    """Return the next model, what came in, and the bytes sent: all drawn sites start from ``arrays``."""
    tally = the_round.tally()
    requests = _requests(the_round, arrays, asked, tally)
    bytes_down = sum(size(content) for _, content in requests)
    asked = [member for member, _ in requests]
    replies = the_round.ask(requests)
    del requests
    aggregate = _aggregate(the_round, checked(replies, tally), tally, asked)
    check_aggregate(aggregate, the_round.seen(), type(the_round.strategy).__name__)
    return _next_model(the_round, aggregate or ArrayRecord(), tally), tally, bytes_down


def _in_turn(
    the_round: _Round, arrays: ArrayRecord, asked: Sequence[Member]
) -> tuple[ArrayRecord, Tally, int]:
    """Return the same where each site starts from what the one before it made.

    A site whose reply does not count is passed over.
    """
    tally, bytes_down = the_round.tally(), 0
    for member in asked:
        requests = _requests(the_round, arrays, [member], tally)
        bytes_down += sum(size(content) for _, content in requests)
        for message in checked(the_round.ask(requests), tally):
            arrays = _next_model(the_round, records(message.content, ArrayRecord)[ARRAYS], tally)
    tally.require_quorum(asked, the_round.settings.quorum)
    return arrays, tally, bytes_down


def _requests(
    the_round: _Round, arrays: ArrayRecord, asked: Sequence[Member], tally: Tally
) -> list[tuple[Member, RecordDict]]:
    """Return what the strategy wants to send, with the carried arrays put back, in site order.

    Where arrays are halved the tally is told which models the replies' updates belong to.
    """
    strategy, expected = the_round.strategy, the_round.expected
    nodes = ChosenNodes(the_round.grid, [member.node_id for member in asked])
    floats = averaged(arrays, the_round.seen())
    own_config = ConfigRecord(dict(the_round.config))
    messages = list(strategy.configure_train(the_round.number, floats, own_config, nodes))
    others = {name: arrays[name] for name in expected if name not in floats}
    whole: dict[int, tuple[ArrayRecord, ArrayRecord]] = {}
    contents: dict[int, RecordDict] = {}
    masters: dict[int, ArrayRecord] = {}
    for message in messages:
        sent = records(message.content, ArrayRecord)
        record = sent.pop(ARRAYS)
        # Strategies put one record into all messages: it is completed once and shared, not once a site.
        if id(record) not in whole:
            model = merged(record, others, expected)
            whole[id(record)] = model, halved(model, the_round.halved)
        node = message.metadata.dst_node_id
        masters[node], travels = whole[id(record)]
        contents[node] = RecordDict({ARRAYS: travels, **sent, **records(message.content, ConfigRecord)})
    strangers = contents.keys() - {member.node_id for member in asked}
    if strangers or not contents:
        raise ValueError(
            f"strategy {type(strategy).__name__} chose nodes that were not drawn, or none at all"
        )
    requests = [(member, contents[member.node_id]) for member in asked if member.node_id in contents]
    for member, content in requests:
        if own := the_round.private.get(member.name):
            content[CONFIG] = ConfigRecord({**records(content, ConfigRecord)[CONFIG], **own})
    if the_round.halved:
        tally.masters = {member.name: masters[member.node_id] for member, _ in requests}
    return requests


def _aggregate(
    the_round: _Round, replies: Iterator[Message], tally: Tally, asked: Sequence[Member]
) -> ArrayRecord | None:
    """Return what the strategy makes of the replies. Raises QuorumLost where too few of them count."""
    strategy, number, quorum = the_round.strategy, the_round.number, the_round.settings.quorum
    if isinstance(strategy, StreamingFedAvg):
        aggregate, _ = strategy.aggregate_train(number, replies)
        tally.require_quorum(asked, quorum)
        return aggregate
    # Flower's own strategies go through the replies several times, so they get a list.
    collected: Iterable[Message] = list(replies)
    tally.require_quorum(asked, quorum)
    # Flower collects garbage with every array record that it reads, many times a round, and in a process that
    # has imported torch that takes 0.1 s and more: what is alive by now is set aside for as long.
    gc.freeze()
    try:
        aggregate, _ = strategy.aggregate_train(number, collected)
    finally:
        gc.unfreeze()
    return aggregate


def _next_model(the_round: _Round, aggregate: ArrayRecord, tally: Tally) -> ArrayRecord:
    """Return the whole model in its own order and dtypes (FedAdam, for one, returns float64)."""
    floats = ArrayRecord()
    for name, array in aggregate.items():
        values = view(array)
        dtype = the_round.expected[name].dtype
        floats[name] = array if values.dtype == dtype else NumPyArray(values.astype(dtype))
    return merged(floats, to_record(tally.others()), the_round.expected)
