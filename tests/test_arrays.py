"""Arrays that travel by reference say the same as Flower's own, and large ones are worked through whole."""

import pickle

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, RecordDict
from numpy.typing import NDArray

from strategies.arrays import NumPyArray, copied, size, to_record, view
from strategies.blocks import over_blocks

SOME = (
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asarray(7, np.int64),
    np.zeros((0, 5), np.float16),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.ones((2, 3, 4, 5, 1), bool),
)


@pytest.mark.parametrize("values", SOME, ids=lambda one: f"{one.dtype}{one.shape}")
def test_it_is_the_array_that_flower_would_make(values: NDArray[np.generic]) -> None:
    ours, flowers = NumPyArray(values), Array(np.asarray(values, order="C"))
    assert (ours.dtype, ours.shape, ours.stype) == (flowers.dtype, flowers.shape, flowers.stype)
    assert ours.data == flowers.data
    np.testing.assert_array_equal(view(ours), values)
    np.testing.assert_array_equal(ours.numpy(), values)
    plain = Array(ours.dtype, ours.shape, ours.stype, ours.data)  # as a network hands it on
    np.testing.assert_array_equal(view(plain), values)
    assert ours.object_id == flowers.object_id, "what Flower stores and sends, by its content"
    assert ours.children.keys() == flowers.children.keys()
    received = Array.inflate(ours.deflate(), ours.children)
    np.testing.assert_array_equal(view(received), values)
    content = {"arrays": to_record({"w": values}), "config": ConfigRecord({"a": 1})}
    assert size(RecordDict(content)) == sum(record.count_bytes() for record in content.values())


def test_it_shows_the_memory_and_does_not_let_it_be_written() -> None:
    values = np.zeros(3, np.float32)
    shown = view(NumPyArray(values))
    values[0] = 5
    assert shown[0] == 5
    with pytest.raises(ValueError, match="read-only"):
        shown[0] = 1
    kept = copied(to_record({"w": values}))
    values[0] = 9
    assert view(kept["w"])[0] == 5


def test_its_values_are_pickled_out_of_band() -> None:
    values = np.arange(1000, dtype=np.float32)
    buffers: list[pickle.PickleBuffer] = []
    said = pickle.dumps(to_record({"w": values}), protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 1
    assert len(said) < 1000
    again = view(pickle.loads(said, buffers=buffers)["w"])
    assert np.shares_memory(again, values)
    assert not again.flags.writeable


def test_python_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="Python objects"):
        NumPyArray(np.array([object()]))


@pytest.mark.parametrize("count", [0, 1, 32768, 32769, (1 << 20) + 5, (1 << 21) + 1])
def test_every_element_is_worked_on_once_in_order(count: int) -> None:
    values = np.arange(count, dtype=np.int64)
    out = np.zeros(count, np.int64)

    def work(target: NDArray[np.int64], source: NDArray[np.int64]) -> int:
        target += source + 1
        return len(source)

    assert sum(over_blocks(work, out, values)) == count
    np.testing.assert_array_equal(out, values + 1)
    sums = over_blocks(lambda one: int(one[0]), values) if count else []
    assert sums == sorted(sums)


def test_what_the_work_raises_is_raised() -> None:
    def work(_: NDArray[np.int64]) -> None:
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        over_blocks(work, np.zeros((1 << 21,), np.int64))
