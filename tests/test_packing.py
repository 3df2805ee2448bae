"""Messages in one piece: the same records come out, bit for bit, and no description of them is believed."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hospitals import Hospital, asking, experiment
from memory_grid import MemoryGrid, answering, f32, members, record, values

from fedderm import messages
from strategies.arrays import to_record, view
from strategies.exchange import exchange
from strategies.packing import PACKED, PackedGrid, is_packed, packed, unpacked

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "half": np.array([1.5, np.nan, np.inf], np.float16),
    "count": np.array(7, np.int64),
    "mask": np.array([True, False]),
    "nothing": np.empty((0, 4), np.float32),
    "huge": np.array([2**63], np.uint64),
    "big endian": np.array([1, 2], ">i4"),
}


def content() -> RecordDict:
    return RecordDict(
        {
            "arrays": to_record(ARRAYS),
            "none": ArrayRecord(),
            "flowers own": ArrayRecord({"w": Array(np.array([3.0, 4.0]))}),
            "metrics": MetricRecord({"loss": 0.25}),
            "config": ConfigRecord({"server-round": 3, "text": "ä"}),
        }
    )


def over_the_wire(found: RecordDict) -> RecordDict:
    """Return records as they arrive: of Flower's own classes, made from its bytes."""
    arrays = found[PACKED]
    assert isinstance(arrays, ArrayRecord)
    received = ArrayRecord({name: Array(view(one)) for name, one in arrays.items()})
    return RecordDict({**found, PACKED: received})


def test_the_same_records_come_out() -> None:
    sent = packed(content())
    assert is_packed(sent)
    assert len([one for one in sent.values() if isinstance(one, ArrayRecord)]) == 1
    back = unpacked(over_the_wire(sent))
    assert set(back) == set(content())
    assert back["metrics"] == content()["metrics"]
    assert back["config"] == content()["config"]
    assert list(back["none"]) == []
    found = {name: view(one) for name, one in back["arrays"].items()}
    assert list(found) == list(ARRAYS), "their order is the sender's"
    for name, expected in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found[name], expected)
        assert not found[name].flags.writeable
    np.testing.assert_array_equal(view(back["flowers own"]["w"]), [3.0, 4.0])


def test_it_is_five_objects_whatever_the_model() -> None:
    def objects(one: Any) -> int:
        return 1 + sum(objects(child) for child in (one.children or {}).values())

    model = RecordDict({"arrays": to_record({str(n): np.full(9, n, np.float32) for n in range(200)})})
    assert objects(packed(model)) == 5
    assert objects(model) == 402


def test_an_array_that_is_none_is_refused() -> None:
    broken = Array(np.zeros(4))
    broken.data = broken.data[:-1]
    with pytest.raises(ValueError, match="bytes where its header promises"):
        packed(RecordDict({"arrays": ArrayRecord({"w": broken})}))


DATA = np.zeros(64, np.uint8)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ([["arrays", "w", "<f4", [17], 0]], "ends beyond the message's bytes"),
        ([["arrays", "w", "<f4", [4], 60]], "ends beyond the message's bytes"),
        ([["arrays", "w", "<f4", [-4], 0]], "is described as"),
        ([["arrays", "w", "<f4", [4], -8]], "is described as"),
        ([["arrays", "w", "|O", [4], 0]], "is described as"),
        ([["arrays", "w", "<M8[s]", [4], 0]], "is described as"),
        ([["arrays", "w", "<f4", [2], 0]] * 2, "is described twice"),
        ([["elsewhere", "w", "<f4", [2], 0]], "cannot be read"),
        ([["arrays", "w", "nonsense", [2], 0]], "cannot be read"),
        ([["arrays", "w", "<f4", ["2"], 0]], "cannot be read"),
        ([["arrays", "w"]], "cannot be read"),
        ({"arrays": 3}, "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(arrays: Any, expected: str) -> None:
    layout = ConfigRecord({"layout": json.dumps({"records": ["arrays"], "arrays": arrays})})
    with pytest.raises(ValueError, match=expected):
        unpacked(RecordDict({PACKED: to_record({"all": DATA}), "packed-layout": layout}))


def test_a_layout_that_python_chokes_on_is_refused() -> None:
    layout = ConfigRecord({"layout": "[" * 100_000})
    with pytest.raises(ValueError, match="cannot be read"):
        unpacked(RecordDict({PACKED: to_record({"all": DATA}), "packed-layout": layout}))


@pytest.mark.parametrize("shape", ["-" * 9000 + "1", "(" * 9000, "1" + "+1" * 30_000])
def test_a_header_that_python_chokes_on_is_refused(shape: str) -> None:
    """NumPy reads the header as Python, which raises MemoryError, RecursionError and tokenize's own."""
    said = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape},), }}".encode()
    said += b" " * (-(len(said) + 11) % 64) + b"\n"
    array = Array(np.zeros(1, np.float32))
    array.data = b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said
    with pytest.raises(ValueError, match="header cannot be read"):
        view(array)


def test_a_model_for_many_sites_is_packed_once_and_not_kept() -> None:
    seen: list[Any] = []

    class Kept(MemoryGrid):
        def push_messages(self, sent: Iterable[Message]) -> Iterable[str]:
            seen.extend(one.content[PACKED] for one in sent)
            return [str(len(seen))]

    grid, model = PackedGrid(Kept({})), record(w=f32(1, 2))
    for node, arrays in ((101, model), (102, model), (103, record(w=f32(3, 4)))):
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"site": node})})
        grid.push_messages([Message(content, node, "train")])
    assert seen[0] is seen[1]
    assert seen[2] is not seen[1]
    assert view(seen[2]["all"]).view(np.float32)[0] == 3
    grid.pull_messages([])
    assert not grid._packed


def test_what_is_packed_otherwise_is_refused() -> None:
    with pytest.raises(ValueError, match="the same version of fedderm"):
        unpacked(RecordDict({PACKED: ArrayRecord(), "packed-layout": ConfigRecord()}))


def test_sites_over_a_grid_see_packed_messages_and_their_replies_come_back_whole() -> None:
    seen: list[bool] = []

    def packing(answer: Callable[[Message], RecordDict]) -> Callable[[Message], RecordDict]:
        def answered(message: Message) -> RecordDict:
            seen.append(is_packed(message.content))
            message.content = unpacked(message.content)
            return packed(answer(message))

        return answered

    def nonsense(message: Message) -> RecordDict:
        del message
        return RecordDict({PACKED: ArrayRecord(), "packed-layout": ConfigRecord()})

    grid = PackedGrid(
        MemoryGrid(
            {
                101: packing(answering(record(w=f32(1, 2)), 10)),
                102: answering(record(w=f32(3, 4)), 10),
                103: nonsense,
            }
        )
    )
    requests = [(member, RecordDict({"arrays": record(w=f32(0, 0))})) for member in members(10, 10, 10)]
    first, plain, broken = exchange(grid, requests, "train", 30.0)
    assert seen == [True]
    for reply, expected in ((first, f32(1, 2)), (plain, f32(3, 4))):
        assert reply.message is not None
        np.testing.assert_array_equal(values(reply.message.content["arrays"])["w"], expected)
    assert broken.message is not None
    assert is_packed(broken.message.content), "as it came: its readers find no arrays, and say whose"
    assert not is_packed(requests[0][1]), "what is sent again is packed anew"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packing")


def test_a_hospital_answers_as_it_was_asked_and_logs_what_leaves(root: Path, tmp_path: Path) -> None:
    west, run = Hospital(root, tmp_path, "west"), experiment(root)
    card = asking(run, messages.QUERY)
    card.content = over_the_wire(packed(card.content))
    assert is_packed(west.asked(card).content), "without a single array, too"
    plain = west.asked(asking(run, messages.TRAIN))
    ask = asking(run, messages.TRAIN)
    ask.content = over_the_wire(packed(ask.content))
    reply = west.asked(ask)
    assert is_packed(reply.content)
    again = unpacked(reply.content)
    for name, one in plain.content["arrays"].items():
        np.testing.assert_array_equal(view(again["arrays"][name]), view(one))
    last, before = west.log()[-1], west.log()[-2]
    assert last["content"] == reply.content.object_id, "the hash is that of what travels"
    assert last["records"] == before["records"], "and what is in it is told as ever"


def test_a_hospital_tells_nothing_to_what_cannot_be_unpacked(root: Path, tmp_path: Path) -> None:
    west, run = Hospital(root, tmp_path, "west"), experiment(root)
    ask = asking(run, messages.EVALUATE)
    ask.content = RecordDict({**packed(ask.content), "packed-layout": ConfigRecord({"layout": "{}"})})
    with pytest.raises(Exception, match="it could not answer; the hospital's own log says why"):
        west.asked(ask)
    assert west.log()[-1]["what"] == "failed"
