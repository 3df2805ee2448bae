"""A reply that is announced and never comes whole holds up no other, and no deadline."""

import threading
import time
from collections.abc import Iterable

import pytest
from flwr.app import Message, RecordDict
from memory_grid import Answer, MemoryGrid, SilenceError, answering, f32, members, raising, record, values

from strategies import separate_pulls
from strategies.exchange import Reply, exchange
from strategies.grid_view import GridView
from strategies.separate_pulls import SeparatePulls


class HalfSent(MemoryGrid):
    """As Flower's grid over HTTP: whoever pulls an announced reply waits until its arrays are there."""

    def __init__(self, answers: dict[int, Answer], killed: int) -> None:
        super().__init__(answers)
        self.killed = killed
        self.given_up = threading.Event()
        self.waiting = 0

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = list(super().pull_messages(message_ids))
        if any(one.metadata.src_node_id == self.killed for one in found):
            self.waiting += 1
            assert self.given_up.wait(60)
        return found


def sites(offset: int = 0) -> dict[int, Answer]:
    return {101 + i: answering(record(w=f32(i + offset, 1)), 10, after_s=0.1 * i) for i in range(3)}


def asked(grid: GridView, deadline: float) -> list[Reply]:
    requests = [(member, RecordDict({"arrays": record(w=f32(0, 0))})) for member in members(10, 10, 10)]
    return list(exchange(grid, requests, "train", deadline))


def first_values(replies: list[Reply]) -> list[float | None]:
    return [
        None if one.message is None else float(values(one.message.content["arrays"])["w"][0])
        for one in replies
    ]


@pytest.fixture
def broken() -> Iterable[HalfSent]:
    grid = HalfSent(sites(), killed=101)
    yield grid
    grid.given_up.set()


def test_the_others_replies_are_there_and_the_deadline_is_kept(broken: HalfSent) -> None:
    begin = time.monotonic()
    found = asked(SeparatePulls(broken), 3.0)
    assert broken.waiting == 1, "it was announced, and is being waited for"
    assert time.monotonic() - begin < 30, "not until the grid gives up"
    assert found[0].reason == "site a: no answer within 3 s"
    assert first_values(found) == [None, 1, 2]
    assert all(one.seconds < 3 for one in found[1:]), "they came before the deadline"


def test_what_comes_too_late_is_nobodys(broken: HalfSent) -> None:
    grid = SeparatePulls(broken)
    asked(grid, 1.0)
    broken.killed = 0
    broken._answers = dict(sites(offset=10))
    broken.given_up.set()
    assert first_values(asked(grid, 30.0)) == [10, 11, 12], "not the 0 of the question before"


def test_no_thread_is_left_asking_for_what_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separate_pulls, "_LEFT_ALONE_S", 0.5)
    before = threading.active_count()
    replies = asked(SeparatePulls(MemoryGrid({**sites(), 103: raising(SilenceError())})), 1.0)
    assert replies[2].reason == "site c: no answer within 1 s"
    end = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.1)
    assert threading.active_count() == before


def test_one_that_was_left_alone_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that adds up a large reply for longer than that between two questions."""
    monkeypatch.setattr(separate_pulls, "_LEFT_ALONE_S", 0.2)
    inner = MemoryGrid({101: answering(record(w=f32(5, 1)), 10, after_s=1.0)})
    grid = SeparatePulls(inner)
    (key,) = grid.push_messages([Message(RecordDict({"arrays": record(w=f32(0, 0))}), 101, "train")])
    assert list(grid.pull_messages([key])) == []
    time.sleep(1.5)
    end, found = time.monotonic() + 60, list[Message]()
    while not found and time.monotonic() < end:
        found = list(grid.pull_messages([key]))
    assert len(found) == 1


def test_replies_in_hand_come_before_the_failure() -> None:
    class Failing(MemoryGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            (key,) = message_ids
            if key == last:
                time.sleep(0.5)
                raise ConnectionError("the SuperLink is gone")
            return super().pull_messages([key])

    inner = Failing(sites())
    grid, content = SeparatePulls(inner), RecordDict({"arrays": record(w=f32(0, 0))})
    keys = [next(iter(grid.push_messages([Message(content, node, "train")]))) for node in (101, 102, 103)]
    last = keys[2]
    found: list[Message] = []

    def pulled() -> None:
        for _ in range(100):
            found.extend(grid.pull_messages(keys))

    with pytest.raises(ConnectionError, match="the SuperLink is gone"):
        pulled()
    assert len(found) == 2


def test_send_and_receive_goes_through_the_view() -> None:
    grid = SeparatePulls(MemoryGrid(sites()))
    sent = [Message(RecordDict({"arrays": record(w=f32(0, 0))}), node, "train") for node in (101, 102, 103)]
    assert len(list(grid.send_and_receive(sent, timeout=60.0))) == 3


def test_a_server_that_is_gone_is_told_at_once() -> None:
    class Gone(MemoryGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            del message_ids
            raise ConnectionError("the SuperLink is gone")

    with pytest.raises(ConnectionError, match="the SuperLink is gone"):
        asked(SeparatePulls(Gone(sites())), 30.0)
