"""A whole federation whose models travel as float16: the same run in half the bytes, whoever is stopped."""

from pathlib import Path

import numpy as np
import pytest
from federations import (
    SITES,
    AppGrid,
    Notes,
    largest_difference,
    new_run,
    run_in_memory,
    same,
    state,
    weights,
)

from fedderm.runs import RunFolder
from fedderm.simulation import run_simulation
from strategies.errors import Interrupted
from strategies.half_precision import LEAST

HALF = {"strategy": {"exchange": "float16"}}
SCAFFOLD = {
    "strategy": {"name": "scaffold", "exchange": "float16"},
    "training": {"optimizer": "sgd", "learning_rate": 0.01},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("half")


@pytest.fixture(scope="module")
def single(root: Path) -> RunFolder:
    folder = new_run(root)
    run_in_memory(folder)
    return folder


@pytest.fixture(scope="module")
def half(root: Path) -> tuple[RunFolder, AppGrid]:
    folder = new_run(root, **HALF)
    return folder, run_in_memory(folder)


def test_every_message_with_a_model_holds_large_arrays_as_float16(half: tuple[RunFolder, AppGrid]) -> None:
    folder, grid = half
    sent = [record for _, message in grid.messages if (record := message.content.get("arrays"))]
    assert len(sent) == 4 + 6 + 2 + 3, "2 rounds x (2 train + 3 evaluate), standards, recalibrations"
    statistics = set(state(folder)["statistics"])
    for record in sent:
        for name, array in record.items():
            large = np.prod(array.shape) >= LEAST and name not in statistics
            assert array.dtype == ("float16" if large else "int64" if "tracked" in name else "float32"), name


def test_training_and_evaluation_take_half_the_bytes(
    single: RunFolder, half: tuple[RunFolder, AppGrid]
) -> None:
    """Beside the large arrays a model of test_resnet has 30 kB: headers, norms, biases and the config."""
    for before, after in zip(state(single)["history"], state(half[0])["history"], strict=True):
        for key, messages in (("bytes_down", 2), ("bytes_up", 2), ("evaluation_bytes_down", 3)):
            assert before[key] / 2 < after[key] < before[key] / 2 + messages * 30_000, key


def test_the_model_is_that_of_float32_but_for_rounding(
    single: RunFolder, half: tuple[RunFolder, AppGrid]
) -> None:
    first, second = weights(single.path), weights(half[0].path)
    assert {name: one.dtype for name, one in first.items()} == {n: one.dtype for n, one in second.items()}
    assert 0 < largest_difference(first, second) < 0.01


def test_the_final_model_is_the_one_that_sites_judged(half: tuple[RunFolder, AppGrid]) -> None:
    """Each of its large arrays is float16's; the server's own copy, kept between rounds, is finer."""
    folder, _ = half
    final, master = weights(folder.path), folder.latest_arrays() or {}
    large = [name for name, one in final.items() if one.size >= LEAST and one.dtype == np.float32]
    assert large
    for name in large:
        np.testing.assert_array_equal(final[name], master[name].astype(np.float16).astype(np.float32))
    assert any((final[name] != master[name]).any() for name in large)


@pytest.mark.parametrize("changes", [HALF, SCAFFOLD], ids=["fedavg", "scaffold"])
def test_in_any_order_or_stopped_and_resumed_the_run_is_the_same_bit_for_bit(
    root: Path, changes: dict[str, dict[str, object]]
) -> None:
    folders = [new_run(root, **changes) for _ in range(3)]
    run_in_memory(folders[0])
    run_in_memory(folders[1], order=lambda position: -position)
    notes = Notes()
    with pytest.raises(Interrupted):
        run_in_memory(folders[2], should_stop=lambda: notes.stages[-1] == "round 2/2: train", notes=notes)
    assert state(folders[2])["round"] == 1
    run_in_memory(RunFolder.open(folders[2].path))
    for other in folders[1:]:
        assert same(weights(folders[0].path), weights(other.path))


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": {"name": "cyclic"}},
        {"strategy": {"name": "fedbn"}, "training": {"norm_statistics": "local"}},
        {"strategy": {"name": "fedadam", "parameters": {"eta": 0.001}}, "training": {"head_start": "ridge"}},
        {"strategy": {"name": "fed3r"}, "training": {"trunk": "frozen"}, "rounds": 1},
        {"strategy": {"average_last": 2}},
        {"baseline": "pooled"},
    ],
    ids=["cyclic", "fedbn", "fedadam after a head start", "fed3r", "averaged rounds", "pooled"],
)
def test_it_goes_with(root: Path, changes: dict[str, object]) -> None:
    strategy = {**dict(changes.get("strategy", {})), "exchange": "float16"}  # type: ignore[call-overload]
    folder = new_run(root, **{**changes, "strategy": strategy})
    run_in_memory(folder)
    assert all(not entry["refused"] for entry in state(folder)["history"])
    assert all(np.isfinite(one).all() for one in weights(folder.path).values())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_with_any_number_of_workers_gives_the_same_run(
    root: Path, half: tuple[RunFolder, AppGrid], workers: int
) -> None:
    folder = new_run(root, SITES, **HALF, resources={"workers": workers})
    run_simulation(folder, Notes())
    assert same(weights(folder.path), weights(half[0].path))
