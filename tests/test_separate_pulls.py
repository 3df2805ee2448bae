"""A reply that is announced and never comes whole holds up no other, and no deadline."""

import threading
import time
from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from memory_grid import MemoryGrid, answering, f32, members, record, values

from strategies.exchange import Reply, exchange
from strategies.separate_pulls import SeparatePulls


class HalfSent(MemoryGrid):
    """As Flower's grid over HTTP: whoever pulls an announced reply waits until its arrays are there."""

    def __init__(self, *args: object, killed: int) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.killed = killed
        self.given_up = threading.Event()
        self.waiting = 0

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = list(super().pull_messages(message_ids))
        if any(one.metadata.src_node_id == self.killed for one in found):
            self.waiting += 1
            assert self.given_up.wait(60)
        return found


def sites() -> dict[int, object]:
    return {101 + i: answering(record(w=f32(i, 1)), 10, after_s=0.1 * i) for i in range(3)}


def asked(grid: SeparatePulls, deadline: float) -> list[Reply]:
    requests = [(member, RecordDict({"arrays": record(w=f32(0, 0))})) for member in members(10, 10, 10)]
    return list(exchange(grid, requests, "train", deadline))


@pytest.fixture
def broken() -> Iterable[HalfSent]:
    grid = HalfSent(sites(), killed=101)
    yield grid
    grid.given_up.set()


def test_the_others_replies_are_there_and_the_deadline_is_kept(broken: HalfSent) -> None:
    begin = time.monotonic()
    first, second, third = asked(SeparatePulls(broken), 3.0)
    assert broken.waiting == 1, "it was announced, and is being waited for"
    assert time.monotonic() - begin < 30, "not until the grid gives up"
    assert first.message is None
    assert first.reason == "site a: no answer within 3 s"
    for number, one in ((1, second), (2, third)):
        assert one.message is not None
        np.testing.assert_array_equal(values(one.message.content["arrays"])["w"], f32(number, 1))
        assert one.seconds < 3, "they came before the deadline"


def test_what_comes_too_late_is_nobodys(broken: HalfSent) -> None:
    grid = SeparatePulls(broken)
    asked(grid, 1.0)
    broken.killed = 0
    broken.given_up.set()
    again = asked(grid, 30.0)
    assert [one.reason for one in again] == [None] * 3
    assert all(one.seconds < 20 for one in again)


def test_a_server_that_is_gone_is_told_at_once() -> None:
    class Gone(MemoryGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            del message_ids
            raise ConnectionError("the SuperLink is gone")

    with pytest.raises(ConnectionError, match="the SuperLink is gone"):
        asked(SeparatePulls(Gone(sites())), 30.0)  # type: ignore[arg-type]
