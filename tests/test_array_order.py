"""Strategies that go through two models by place get them in one order: after a resume, and whatever a site
sends.
"""

from pathlib import Path

import numpy as np
import pytest
from federations import Notes, new_run, run_in_memory, same, weights
from flwr.app import ArrayRecord, Message
from safetensors.numpy import save_file

from fedderm.runs import RunFolder
from fedderm.weights import read_arrays, save_arrays
from strategies.errors import Interrupted

BY_PLACE = {
    "qfedavg": {"client_learning_rate": 0.001},
    "fedavgm": {"server_momentum": 0.9},
}


def run_of(root: Path, name: str) -> RunFolder:
    return new_run(root, rounds=3, strategy={"name": name, "parameters": BY_PLACE[name]})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("order")


@pytest.fixture(scope="module", params=BY_PLACE)
def reference(request: pytest.FixtureRequest, root: Path) -> tuple[str, RunFolder]:
    """A strategy's name, and three rounds of it without a break."""
    folder = run_of(root, request.param)
    run_in_memory(folder)
    return request.param, folder


def test_a_resumed_run_equals_one_that_was_not_stopped(root: Path, reference: tuple[str, RunFolder]) -> None:
    name, unbroken = reference
    notes, folder = Notes(), run_of(root, name)
    with pytest.raises(Interrupted):
        run_in_memory(folder, should_stop=lambda: notes.stages[-1] == "round 2/3: train", notes=notes)
    run_in_memory(RunFolder.open(folder.path))
    assert same(weights(folder.path), weights(unbroken.path))


def test_a_site_that_sends_its_arrays_in_another_order_changes_nothing(
    root: Path, reference: tuple[str, RunFolder]
) -> None:
    name, unbroken = reference

    def reversed_arrays(position: int, message: Message, reply: Message) -> Message:
        if position == 0 and message.metadata.message_type == "train":
            record = reply.content["arrays"]
            assert isinstance(record, ArrayRecord)
            other = ArrayRecord()
            for key in reversed(list(record)):
                other[key] = record[key]
            reply.content["arrays"] = other
        return reply

    folder = run_of(root, name)
    run_in_memory(folder, change=reversed_arrays)
    assert same(weights(folder.path), weights(unbroken.path))


def test_a_file_of_weights_keeps_the_order_that_its_format_does_not(tmp_path: Path) -> None:
    arrays = {
        name: np.full(2, place, dtype)
        for place, (name, dtype) in enumerate(
            [("z", np.float32), ("b.10", np.int64), ("b.2", np.float16), ("a", np.float32)]
        )
    }
    save_arrays(tmp_path / "model.safetensors", arrays)
    found = read_arrays(tmp_path / "model.safetensors")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("order", ["", "no JSON", "7", '{"w": 1}', '["w", 7]', '["w", "w"]', '["strange"]'])
def test_an_order_of_another_program_is_none(tmp_path: Path, order: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": np.ones(2, np.float32), "b": np.zeros(1, np.float32)}, path, {"fedderm-order": order})
    assert sorted(read_arrays(path)) == ["b", "w"]
