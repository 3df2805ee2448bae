"""Replies that come twice, late, for an old round or without saying for which: none of them moves a model."""

import threading
import time
from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from memory_grid import (
    Answer,
    MemoryGrid,
    WorkerDiedError,
    answering,
    f32,
    members,
    record,
    reply,
    values,
)

from strategies.catalogue import build
from strategies.errors import QuorumLost
from strategies.round_settings import RoundSettings
from strategies.rounds import RoundResult, train_round

SETTINGS = RoundSettings(deadline_s=10, quorum=0.5, fraction=1, seed=3, weighting="examples")
START = record(w=f32(0, 0))


def hold(
    grid: MemoryGrid, number: int, arrays: ArrayRecord = START, settings: RoundSettings = SETTINGS
) -> RoundResult:
    return train_round(build("fedavg"), grid, number, arrays, ConfigRecord(), members(10, 30), settings)


def saying(number: int | None, *w: float) -> Answer:
    """Return a site that says its reply is for round ``number``, whatever it was asked."""

    def answer(message: Message) -> RecordDict:
        asked = message.content["config"]["server-round"]
        content = reply(record(w=f32(*w)), 10)
        content["metrics"]["server-round"] = asked if number is None else number
        return content

    return answer


def test_a_reply_for_an_old_round_is_refused_by_name() -> None:
    """Only the second site's (5, 6) is left; its 30 images are all the weight there is."""
    grid = MemoryGrid({101: saying(1, 1, 2), 102: answering(record(w=f32(5, 6)), 30)})
    result = hold(grid, 2)
    assert result.refused == {"a": "site a: its reply is for round 1; round 2 was asked"}
    np.testing.assert_array_equal(values(result.arrays)["w"], f32(5, 6))
    assert hold(MemoryGrid({101: saying(None, 1, 2), 102: saying(None, 1, 2)}), 2).refused.keys() == {"b"}


def test_a_reply_that_does_not_say_its_round_is_refused() -> None:
    class Silent(MemoryGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            for message in super().pull_messages(message_ids):
                del message.content["metrics"]["server-round"]
                yield message

    with pytest.raises(QuorumLost) as lost:
        hold(Silent({101: answering(record(w=f32(1, 2)), 10)}), 1)
    assert "site a: its metrics lack server-round" in str(lost.value)
    assert "does it run the same version of fedderm?" in str(lost.value)


class Repeating(MemoryGrid):
    """A network that delivers every reply twice at once, and once more with each later question."""

    def __init__(self, answers: dict[int, Answer]) -> None:
        super().__init__(answers)
        self.delivered: list[Message] = []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        new = list(super().pull_messages(message_ids))
        self.delivered += new
        return [*new, *self.delivered]


def test_a_reply_that_comes_again_and_again_counts_once() -> None:
    """(10 (1, 2) + 30 (5, 6)) / 40 = (4, 5); counted twice, the first to come would weigh more."""
    answers = {
        101: answering(record(w=f32(1, 2)), 10),
        102: answering(record(w=f32(5, 6)), 30, after_s=0.2),
    }
    grid, once = Repeating(answers), hold(MemoryGrid(answers), 1)
    result = hold(grid, 1)
    np.testing.assert_array_equal(values(result.arrays)["w"], f32(4, 5))
    assert values(result.arrays)["w"].tobytes() == values(once.arrays)["w"].tobytes()
    assert result.bytes_up == once.bytes_up
    assert list(result.metrics) == ["a", "b"]
    assert hold(grid, 2).metrics.keys() == {"a", "b"}, "replies of round 1 that come in round 2 are nobody's"


class Doubting(MemoryGrid):
    """A network that says a site's worker died while it is still at work, and brings its answer later."""

    def __init__(self, answers: dict[int, Answer], late: RecordDict) -> None:
        super().__init__(answers)
        self._late = late
        self.first: Message | None = None
        self.brought: list[str] = []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = list(super().pull_messages(message_ids))
        if self.first is not None and self.first.metadata.message_id not in message_ids and not self.brought:
            found.insert(0, Message(self._late, reply_to=self.first))
            self.brought.append(found[0].metadata.reply_to_message_id)
        return found


def test_a_site_that_was_asked_again_and_then_answers_both_questions_counts_once() -> None:
    """(10 (1, 2) + 30 (5, 6)) / 40 = (4, 5): the answer to the question that was given up is not used."""

    def answer(message: Message) -> RecordDict:
        if grid.first is None:
            grid.first = message
            raise WorkerDiedError("the process was killed")
        time.sleep(0.2)
        return reply(record(w=f32(1, 2)), 10)

    late = reply(record(w=f32(9, 9)), 10)
    late["metrics"]["server-round"] = 1
    grid = Doubting({101: answer, 102: answering(record(w=f32(5, 6)), 30, after_s=0.1)}, late)
    result = hold(grid, 1)
    assert grid.first is not None
    assert grid.brought == [grid.first.metadata.message_id], "the late answer came, before the second one's"
    np.testing.assert_array_equal(values(result.arrays)["w"], f32(4, 5))


def test_a_late_reply_counts_neither_in_its_round_nor_in_the_next() -> None:
    """Round 1 is b's (5, 6) alone. In round 2 a's old reply lies there, and only its new one counts:
    (10 (3, 3) + 30 (5, 6)) / 40 = (4.5, 5.25)."""
    replied = threading.Event()

    def late(message: Message) -> RecordDict:
        if message.content["config"]["server-round"] == 1:
            time.sleep(0.6)
            replied.set()
            return reply(record(w=f32(100, 100)), 10)
        return reply(record(w=f32(3, 3)), 10)

    grid = MemoryGrid({101: late, 102: answering(record(w=f32(5, 6)), 30)})
    impatient = RoundSettings(**{**vars(SETTINGS), "deadline_s": 0.3})
    first = hold(grid, 1, settings=impatient)
    assert first.refused == {"a": "site a: no answer within 0.3 s"}
    np.testing.assert_array_equal(values(first.arrays)["w"], f32(5, 6))
    assert replied.wait(10)
    second = hold(grid, 2, first.arrays)
    assert second.refused == {}
    np.testing.assert_array_equal(values(second.arrays)["w"], f32(4.5, 5.25))
