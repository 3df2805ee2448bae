"""A guarded round: order, deadline, quorum, sampling, held-out sites, memory, Flower's strategies."""

import gc
import threading
import time
import weakref
from collections import Counter

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from memory_grid import (
    Answer,
    MemoryGrid,
    SilenceError,
    WorkerDiedError,
    answering,
    f32,
    members,
    raising,
    record,
    reply,
    values,
)

from strategies.catalogue import build
from strategies.chosen import ChosenNodes
from strategies.errors import AggregateRefused, Interrupted, QuorumLost
from strategies.exchange import Event, Member, exchange, wait_for_nodes
from strategies.names import STRATEGIES
from strategies.round_settings import RoundSettings, draw
from strategies.rounds import RoundResult, train_round

SETTINGS = RoundSettings(deadline_s=10, quorum=0.5, fraction=1, seed=3, weighting="examples")
START = record(w=f32(0, 0), seen=np.asarray(5, np.int64))


def sends(*w: float, seen: int = 6) -> ArrayRecord:
    return record(w=f32(*w), seen=np.asarray(seen, np.int64))


def a_round(
    answers: dict[int, Answer], sites: list[Member], settings: RoundSettings = SETTINGS, **options: object
) -> RoundResult:
    grid = options.pop("grid", None) or MemoryGrid(answers)
    strategy = options.pop("strategy", None) or build("fedavg")
    return train_round(strategy, grid, 1, START, ConfigRecord(), sites, settings, **options)  # type: ignore[arg-type]


def changed(**values: object) -> RoundSettings:
    return RoundSettings(**{**vars(SETTINGS), **values})  # type: ignore[arg-type]


def test_a_round_by_hand() -> None:
    """(10 (1, 2) + 30 (5, 6)) / 40 = (4, 5); equal: (3, 4)."""
    answers = {101: answering(sends(1, 2), 10), 102: answering(sends(5, 6), 30)}
    result = a_round(answers, members(10, 30))
    np.testing.assert_array_equal(values(result.arrays)["w"], f32(4, 5))
    assert result.metrics == {
        "a": {"num-examples": 10, "loss": 0.5},
        "b": {"num-examples": 30, "loss": 0.5},
    }
    assert result.refused == {}
    assert result.bytes_up > 2 * 16
    assert result.bytes_down > 2 * 16
    equal = a_round(answers, members(10, 30), changed(weighting="equal"))
    np.testing.assert_array_equal(values(equal.arrays)["w"], f32(3, 4))


def test_effective_numbers_weigh_sites_but_never_above_their_images() -> None:
    """(10 (1, 2) + 30 (5, 6)) / 40 = (4, 5): the second site's claim of 500 counts for its 30 images."""
    answers = {101: answering(sends(1, 2), 20), 102: answering(sends(5, 6), 30)}
    sites = [Member(101, "a", 20, 10.0), Member(102, "b", 30, 500.0)]
    result = a_round(answers, sites, changed(weighting="effective"))
    np.testing.assert_array_equal(values(result.arrays)["w"], f32(4, 5))
    with pytest.raises(ValueError, match="site a: has not said its effective number"):
        a_round(answers, members(20, 30), changed(weighting="effective"))


def test_integer_buffers_stay_integers_and_take_the_maximum() -> None:
    answers = {
        101: answering(sends(1, 1, seen=2**62), 10),
        102: answering(sends(3, 3, seen=8), 10),
    }
    result = a_round(answers, members(10, 10))
    assert list(result.arrays) == ["w", "seen"], "the model's own order"
    assert values(result.arrays)["seen"].dtype == np.int64
    assert values(result.arrays)["seen"] == 2**62, "no detour over float64, which would do for 2**53 at most"


def test_sites_receive_the_whole_model_and_the_round() -> None:
    received: list[Message] = []

    def answer(message: Message) -> RecordDict:
        received.append(message)
        return reply(sends(1, 1), 10)

    a_round({101: answer}, members(10))
    arrays = received[0].content["arrays"]
    np.testing.assert_array_equal(values(arrays)["seen"], 5)
    assert list(arrays) == ["w", "seen"]
    assert received[0].content["config"]["server-round"] == 1


@pytest.mark.parametrize("delays", [(0.0, 0.1, 0.2), (0.2, 0.1, 0.0), (0.1, 0.0, 0.2)])
def test_the_order_of_arrival_does_not_change_a_bit(delays: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    models = [sends(*(rng.normal(size=2) * 10.0 ** rng.integers(-9, 9))) for _ in delays]
    sites = members(3, 7, 11)
    answers = {
        site.node_id: answering(model, site.num_examples, delay)
        for site, model, delay in zip(sites, models, delays, strict=True)
    }
    found = values(a_round(answers, sites).arrays)["w"]
    still = {s.node_id: answering(m, s.num_examples) for s, m in zip(sites, models, strict=True)}
    assert found.tobytes() == values(a_round(still, sites).arrays)["w"].tobytes()


def test_a_refused_site_is_left_out_and_named() -> None:
    answers = {
        101: answering(sends(np.nan, 2), 10),
        102: answering(sends(5, 6), 30),
        103: raising(ValueError("cannot read images")),
    }
    result = a_round(answers, members(10, 30, 20), changed(quorum=0.3))
    np.testing.assert_array_equal(values(result.arrays)["w"], f32(5, 6))
    assert set(result.metrics) == {"b"}
    assert "site a: array w has 1 of 2 values that are not finite" in result.refused["a"]
    assert result.refused["c"] == "site c: cannot read images"


def test_silence_past_the_deadline_is_a_refusal() -> None:
    answers = {101: raising(SilenceError()), 102: answering(sends(5, 6), 30)}
    start = time.monotonic()
    result = a_round(answers, members(10, 30), changed(deadline_s=0.4))
    assert 0.3 < time.monotonic() - start < 3
    assert result.refused == {"a": "site a: no answer within 0.4 s"}


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
def test_a_lost_quorum_fails_loudly_with_names_and_reasons(strategy: str) -> None:
    answers = {
        101: raising(SilenceError()),
        102: answering(sends(5, 6), 31),
        103: answering(sends(1, 1), 20),
    }
    with pytest.raises(QuorumLost) as lost:
        a_round(answers, members(10, 30, 20), changed(deadline_s=0.3, quorum=0.5), strategy=build(strategy))
    sentence = str(lost.value)
    assert "round 1: 1 of 3 sites gave a usable reply and 2 are needed (quorum 0.5)" in sentence
    assert "site a: no answer within 0.3 s" in sentence
    assert "site b: it reports 31 training images but registered 30" in sentence
    assert "resume" in sentence


def test_a_site_whose_worker_died_is_asked_again_once() -> None:
    tries: Counter[int] = Counter()

    def dies(times: int, node: int) -> Answer:
        def answer(_: Message) -> RecordDict:
            tries[node] += 1
            if tries[node] <= times:
                raise WorkerDiedError("the process was killed")
            return reply(sends(2, 2), 10)

        return answer

    events: list[Event] = []
    answers = {101: dies(1, 101), 102: dies(9, 102)}
    result = a_round(answers, members(10, 10), on_event=events.append)
    assert tries == {101: 2, 102: 2}
    assert set(result.metrics) == {"a"}
    assert result.refused == {"b": "site b: the process was killed"}
    assert Counter(e.kind for e in events) == {"sent": 2, "resent": 2, "arrived": 1, "failed": 1}


def test_an_exception_of_the_site_is_not_tried_again() -> None:
    grid = MemoryGrid({101: raising(ValueError("no")), 102: answering(sends(1, 1), 10)})
    a_round({}, members(10, 10), grid=grid)
    assert len(grid.sent) == 2


def test_a_node_that_is_gone_is_a_refusal() -> None:
    result = a_round({102: answering(sends(1, 1), 10)}, members(10, 10))
    assert result.refused == {"a": "site a: the message could not be sent (the node is gone)"}


@pytest.mark.parametrize("name", ["fedavg", "fedadam"])
def test_a_held_out_site_is_never_sent_train(name: str) -> None:
    answers = {101 + i: answering(sends(i, i), 10) for i in range(6)}
    grid = MemoryGrid(answers)
    training = members(10, 10, 10, 10, 10, 10)[:4]
    for number in range(1, 6):
        strategy = build(name)
        train_round(strategy, grid, number, START, ConfigRecord(), training, changed(fraction=0.5, quorum=1))
    assert {node for node, _ in grid.sent} <= {101, 102, 103, 104}
    assert len(grid.sent) == 10
    assert {kind for _, kind in grid.sent} == {"train"}


def test_sampling_depends_on_seed_round_and_names_only() -> None:
    sites = members(*[1] * 10)
    half = changed(fraction=0.5)
    drawn = [{m.name for m in draw(sites, half, number)} for number in range(20)]
    assert all(len(names) == 5 for names in drawn)
    assert len({frozenset(names) for names in drawn}) > 10, "rounds differ"
    reordered = [Member(900 - m.node_id, m.name, 1) for m in reversed(sites)]
    assert [{m.name for m in draw(reordered, half, number)} for number in range(20)] == drawn
    other = changed(fraction=0.5, seed=4)
    assert [{m.name for m in draw(sites, other, number)} for number in range(20)] != drawn
    assert draw(sites, SETTINGS, 1) == sites, "all of them, in their order"
    assert len(draw(sites, changed(fraction=0.01), 1)) == 1


def test_members_must_be_there_and_differ() -> None:
    with pytest.raises(ValueError, match="no training site"):
        draw([], SETTINGS, 1)
    with pytest.raises(ValueError, match="share a name"):
        draw([Member(1, "a", 1), Member(2, "a", 1)], SETTINGS, 1)


@pytest.mark.parametrize(
    "wrong",
    [{"deadline_s": 0}, {"quorum": 0}, {"quorum": 1.1}, {"fraction": -1}, {"seed": -1}, {"weighting": "x"}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        changed(**wrong)


def test_stopping_while_sites_work() -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    start = time.monotonic()
    with pytest.raises(Interrupted):
        a_round({101: raising(SilenceError())}, members(10), should_stop=stop.is_set)
    assert time.monotonic() - start < 2


def test_replies_do_not_pile_up() -> None:
    """Twenty sites answer one after the other; when one arrives, at most the one before it is still alive."""
    alive: list[weakref.ref[RecordDict]] = []
    turn = [threading.Event() for _ in range(21)]
    turn[0].set()
    most = 0

    def answer(message: Message) -> RecordDict:
        turn[message.metadata.dst_node_id - 101].wait(10)
        content = reply(sends(1, 1), 10)
        alive.append(weakref.ref(content))
        return content

    def on_event(event: Event) -> None:
        nonlocal most
        if event.kind == "arrived":
            most = max(most, sum(ref() is not None for ref in alive))
            turn[event.member.node_id - 100].set()

    sites = [Member(101 + i, f"site-{i:02}", 10) for i in range(20)]
    result = a_round({site.node_id: answer for site in sites}, sites, on_event=on_event)
    assert len(result.metrics) == len(alive) == 20
    assert most <= 2
    assert sum(ref() is not None for ref in alive) == 0


def test_exchange_yields_in_the_given_order_and_releases() -> None:
    sites = members(1, 2, 3)
    answers = {s.node_id: answering(sends(i, i), 1, 0.1 * (3 - i)) for i, s in enumerate(sites)}
    refs = []
    names = []
    for one in exchange(MemoryGrid(answers), [(s, RecordDict()) for s in sites], "query", 5):
        gc.collect()
        assert all(ref() is None for ref in refs[:-1])
        refs.append(weakref.ref(one.message))
        names.append(one.member.name)
    assert names == ["a", "b", "c"]


def hand_model(name: str) -> tuple[np.ndarray, dict[str, float]]:
    """Return what Flower's strategy must make of w = 1, 2, 3, 8, 4, 5, 6 of equal weight, from w = 0."""
    mean = 29 / 7
    known: dict[str, tuple[float, dict[str, float]]] = {
        "fedavg": (mean, {}),
        "fedprox": (mean, {"proximal_mu": 0.1}),
        "fedmedian": (4.0, {}),
        "fedtrimmedavg": (4.0, {"beta": 0.2}),  # 1 and 8 go: (2 + 3 + 4 + 5 + 6) / 5
        "fedavgm": (mean, {"server_momentum": 0.9, "server_learning_rate": 1.0}),
    }
    value, parameters = known.get(name, (np.nan, {}))
    return np.asarray(value), parameters


FLOWERS = sorted(name for name, where in STRATEGIES.items() if where.startswith("flwr."))


@pytest.mark.parametrize("name", ["fedavg", "fedprox", *FLOWERS])
def test_flowers_own_strategies_work_behind_the_guard(name: str) -> None:
    models = [1, 2, 3, 8, 4, 5, 6]
    sites = members(*[10] * 7)
    answers = {s.node_id: answering(sends(m, m), 10) for s, m in zip(sites, models, strict=True)}
    expected, parameters = hand_model(name)
    strategy = build(name, **parameters)
    first = a_round(answers, sites, strategy=strategy)
    again = train_round(strategy, MemoryGrid(answers), 2, first.arrays, ConfigRecord(), sites, SETTINGS)
    for result in (first, again):
        found = values(result.arrays)
        assert found["w"].dtype == np.float32, "FedAdam, for one, widens to float64"
        assert found["w"].shape == (2,)
        assert found["seen"] == 6
        assert found["seen"].dtype == np.int64
    if not np.isnan(expected):
        np.testing.assert_allclose(values(first.arrays)["w"], np.full(2, expected), rtol=1e-6)


def test_an_aggregate_that_overflows_is_refused() -> None:
    answers = {101: answering(sends(3e38, 0), 10)}
    strategy = build("fedavgm", server_learning_rate=1e10)
    sentence = "FedAvgM returned values that are not finite in w"
    with pytest.raises(AggregateRefused, match=sentence), np.errstate(all="ignore"):
        a_round(answers, members(10), strategy=strategy)


def test_a_strategy_that_waits_for_more_sites_is_told_so() -> None:
    nodes = ChosenNodes(MemoryGrid({}), [1, 2])
    assert [list(nodes.get_node_ids()) for _ in range(4)] == [[1, 2]] * 4
    with pytest.raises(ValueError, match="waits for more than the 2 sites"):
        nodes.get_node_ids()


def test_waiting_for_nodes() -> None:
    grid = MemoryGrid({7: answering(START, 1), 3: answering(START, 1)})
    assert wait_for_nodes(grid, 2, deadline_s=1) == [3, 7]
    with pytest.raises(QuorumLost, match=r"2 of 3 sites connected within 0\.1 s"):
        wait_for_nodes(grid, 3, deadline_s=0.1)
    with pytest.raises(Interrupted):
        wait_for_nodes(grid, 3, deadline_s=5, should_stop=lambda: True)


def test_waiting_for_certain_nodes_leaves_others_alone_and_names_who_is_missing() -> None:
    grid = MemoryGrid({7: answering(START, 1), 3: answering(START, 1), 5: answering(START, 1)})
    assert wait_for_nodes(grid, 2, deadline_s=1, wanted={7: "north", 3: "south"}) == [3, 7]
    with pytest.raises(QuorumLost, match=r"1 of 2 sites connected within 0\.1 s \(west did not\); start"):
        wait_for_nodes(grid, 2, deadline_s=0.1, wanted={7: "north", 4: "west"})
