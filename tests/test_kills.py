"""Killed at any moment, again and again, and resumed, a run ends as one that nothing happened to.

The sittings are processes of their own that serve the real app in memory (``federations.AppGrid``), forked
from a server that has imported torch: a kill costs a second, so there can be many. ``SIGKILL`` always.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import Notes, command, new_run, only_run, run_in_memory, same, weights, write_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedderm.runs import RunFolder

ROOT = Path(__file__).resolve().parents[1]

TABLES = (
    "rounds/metrics.csv",
    "evaluation/metrics.csv",
    "evaluation/sites.json",
    "evaluation/federation.json",
)

STAGES = (
    "roll call",
    "round 1/3: train",
    "round 1/3: evaluate",
    "round 2/3: train",
    "round 2/3: evaluate",
    "round 3/3: train",
    "round 3/3: evaluate",
    "federation's threshold",
    "recalibrate",
)

STRATEGIES: dict[str, dict[str, Any]] = {
    "fedadam": {"strategy": {"name": "fedadam", "parameters": {"eta": 0.01}}},
    "scaffold": {"strategy": {"name": "scaffold"}, "training": {"optimizer": "sgd"}},
}
"""A momentum kept at the server; control variates kept at the sites and at the server."""


class Telling(Notes):
    """An observer that sends the title of each stage to the test's process.

    It kills its own process ``delay`` seconds after the stage ``last`` begins: on a busy machine the test's
    process might be late.
    """

    def __init__(self, listener: Connection, last: str, delay: float) -> None:
        super().__init__()
        self._listener = listener
        self._last = last
        self._delay = delay

    def stage(self, title: str, sites: Sequence[str]) -> None:
        super().stage(title, sites)
        self._listener.send(title)
        if title == self._last:
            threading.Timer(self._delay, os.kill, (os.getpid(), signal.SIGKILL)).start()


def sitting(run: str, listener: Connection, kill_at: int, last: str, delay: float) -> None:
    """Serve a run to its end, or until it has begun to write or rename its ``kill_at``-th file, or until
    ``delay`` seconds after the stage ``last`` has begun."""
    if kill_at:
        die_at_write(kill_at, Path(run).parents[2])
    run_in_memory(RunFolder.open(Path(run)), notes=Telling(listener, last, delay))


def die_at_write(number: int, below: Path) -> None:
    """Kill this process when it opens for writing, or renames, the ``number``-th file ``below``."""
    seen = 0

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "os.rename" or (event == "open" and "w" in str(values[1]))
        if writes and str(values[0]).startswith(f"{below}{os.sep}"):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """Yield a maker of processes that have imported torch and fedderm by the time they start."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    os.environ.update(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]), OMP_NUM_THREADS="1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["federations", "fedderm.site_tasks"])
    yield context
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def start(
    processes: Any, folder: RunFolder, kill_at: int = 0, last: str = "", delay: float = 0.0
) -> tuple[Any, Connection]:
    here, there = processes.Pipe(duplex=False)
    process = processes.Process(target=sitting, args=(str(folder.path), there, kill_at, last, delay))
    process.start()
    there.close()
    return process, here


def titles(listener: Connection) -> Iterator[str]:
    """Yield the stages of a sitting as they begin, until its process is gone."""
    while listener.poll(300):
        try:
            yield listener.recv()
        except EOFError:
            return
    pytest.fail("a sitting did not end")


def finish(processes: Any, folder: RunFolder) -> None:
    """Serve the run to its end in a process that nobody kills."""
    process, listener = start(processes, folder)
    for _ in titles(listener):
        pass
    process.join(60)
    assert process.exitcode == 0
    assert json.loads((folder.path / "rounds" / "state.json").read_text())["finished"]


def assert_equal(path: Path, reference: Path) -> None:
    """Weights, tables, what sites did and what TensorBoard shows: all as in the reference."""
    assert same(weights(path), weights(reference))
    for name in TABLES:
        assert (path / name).read_bytes() == (reference / name).read_bytes(), name
    assert trained(path) == trained(reference)
    assert curves(path) == curves(reference)


def trained(run: Path) -> list[dict[str, Any]]:
    history = json.loads((run / "rounds" / "state.json").read_text())["history"]
    return [{key: entry[key] for key in ("round", "sites", "refused")} for entry in history]


UNLIKE = ("round/seconds", "round/bytes_down", "round/evaluation_bytes_down")
"""Curves of two runs that differ: what is sent down holds the run's paths, of unlike lengths."""


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    tags = [tag for tag in reader.Tags()["scalars"] if tag not in UNLIKE]
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in tags}


@pytest.fixture(scope="module", params=sorted(STRATEGIES))
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, processes: Any
) -> tuple[Path, dict[str, Any], RunFolder]:
    """A root, a strategy's changes to the config, and a run of it that nothing happened to."""
    root, changes = tmp_path_factory.mktemp(request.param), STRATEGIES[request.param]
    folder = new_run(root, rounds=3, **changes)
    finish(processes, folder)
    return root, changes, folder


@pytest.mark.slow
def test_killed_once_in_every_stage_at_a_moment_drawn_by_seed(
    reference: tuple[Path, dict[str, Any], RunFolder], processes: Any
) -> None:
    """Ten sittings of one run: each is killed in the next stage that none was killed in."""
    root, changes, whole = reference
    folder = new_run(root, rounds=3, **changes)
    rng = np.random.default_rng(2026)
    for stage in STAGES:
        process, listener = start(processes, folder, last=stage, delay=rng.uniform(0, 0.15))
        assert stage in list(titles(listener))
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, stage
    finish(processes, folder)
    assert_equal(folder.path, whole.path)


@pytest.mark.slow
def test_killed_at_writes_drawn_by_seed(
    reference: tuple[Path, dict[str, Any], RunFolder], processes: Any
) -> None:
    """Between the files of a round (model, memory, table, state, event file) lie microseconds that a clock
    does not hit: these sittings die as they open or rename their n-th file, wherever that is."""
    root, changes, whole = reference
    folder = new_run(root, rounds=3, **changes)
    rng = np.random.default_rng(7)
    ends = []
    for _ in range(8):
        process, listener = start(processes, folder, int(rng.integers(1, 40)))
        for _ in titles(listener):
            pass
        process.join(60)
        ends.append(process.exitcode)
        if process.exitcode == 0:
            break
    assert ends.count(-signal.SIGKILL) >= 4, "it is killed again and again before it comes to its end"
    finish(processes, folder)
    assert_equal(folder.path, whole.path)


@pytest.mark.slow
def test_fedderm_run_killed_at_moments_drawn_by_seed(
    tmp_path_factory: pytest.TempPathFactory, processes: Any
) -> None:
    """The command itself, with Ray's workers, under SCAFFOLD: the whole group is killed twice."""
    root = tmp_path_factory.mktemp("command")
    whole = new_run(root / "whole", rounds=2, **STRATEGIES["scaffold"])
    finish(processes, whole)
    rng = np.random.default_rng(11)
    order = ["run", write_config(root, rounds=2, **STRATEGIES["scaffold"])]
    for stage in ("round 2/2: train", "recalibrate"):
        process = command(*order, cwd=root)
        assert process.stdout is not None
        for line in process.stdout:
            if stage in line:
                time.sleep(rng.uniform(0, 0.5))
                break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        order = ["run", "--resume", only_run(root)]
    process = command(*order, cwd=root)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert_equal(only_run(root), whole.path)
