"""A run that was stopped, at any stage and in any way, and resumed equals one that was not."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from federations import (
    Notes,
    command,
    new_run,
    only_run,
    run_command,
    run_in_memory,
    same,
    weights,
    write_config,
)

from fedderm.runs import RunFolder
from strategies.errors import Interrupted

FILES = (
    "rounds/metrics.csv",
    "evaluation/metrics.csv",
    "evaluation/sites.json",
    "evaluation/federation.json",
)
LONG = {"rounds": 3, "strategy": {"name": "fedprox", "proximal_mu": 0.1}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def reference(root: Path) -> RunFolder:
    """Three rounds without a break."""
    folder = new_run(root, **LONG)
    run_in_memory(folder)
    return folder


def assert_equal(path: Path, reference: RunFolder) -> None:
    assert same(weights(path), weights(reference.path))
    for name in FILES:
        assert (path / name).read_bytes() == (reference.path / name).read_bytes(), name
    assert trained(path) == trained(reference.path)


def trained(run: Path) -> list[dict[str, Any]]:
    """Return what each round's sites did; seconds and bytes depend on machine and folder names."""
    history = json.loads((run / "rounds" / "state.json").read_text())["history"]
    return [{key: entry[key] for key in ("round", "sites", "refused")} for entry in history]


@pytest.mark.parametrize(
    "stage",
    [
        "roll call",
        "round 1/3: train",
        "round 1/3: evaluate",
        "round 2/3: train",
        "round 3/3: evaluate",
        "federation's threshold",
        "recalibrate",
    ],
)
def test_stopped_at_any_stage_and_resumed_it_equals_one_that_was_not(
    root: Path, reference: RunFolder, stage: str
) -> None:
    notes = Notes()
    folder = new_run(root, **LONG)
    with pytest.raises(Interrupted):
        run_in_memory(folder, should_stop=lambda: notes.stages[-1] == stage, notes=notes)
    resumed = RunFolder.open(folder.path)
    assert not resumed.state()["finished"]
    run_in_memory(resumed)
    assert_equal(folder.path, reference)


def test_a_round_that_was_written_but_not_finished_is_done_again_and_stands_once(
    root: Path, reference: RunFolder
) -> None:
    """Killed after the model and the metrics of round 2 were written, before its state was."""
    notes, folder = Notes(), new_run(root, **LONG)
    after_one: list[str] = []

    def in_round_3() -> bool:
        if notes.stages[-1] == "round 2/3: train" and not after_one:
            after_one.append((folder.path / "rounds" / "state.json").read_text())
        return notes.stages[-1] == "round 3/3: train"

    with pytest.raises(Interrupted):
        run_in_memory(folder, should_stop=in_round_3, notes=notes)
    (folder.path / "rounds" / "state.json").write_text(after_one[0])
    assert folder.checkpoint(2).is_file()
    run_in_memory(RunFolder.open(folder.path))
    assert_equal(folder.path, reference)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test started; whatever is left of their groups is killed."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


def until(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 180
    while not happened():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"it did not come so far: {process.communicate()[0]}")
        time.sleep(0.005)


def finished_rounds(run: Path) -> int:
    state = run / "rounds" / "state.json"
    return int(json.loads(state.read_text())["round"]) if state.is_file() else 0


def left_over(*words: str) -> list[str]:
    """Return the command lines of processes that mention any of the words, or live in a session so named."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            session = (process / "stat").read_text().rsplit(")", 1)[1].split()[3]
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state != "Z" and (any(word in line for word in words) or f"session {session}" in words):
            found.append(line)
    return found


def nothing_left(process: subprocess.Popen[str], temp: Path) -> bool:
    """Return whether all processes of a run are gone within half a minute."""
    end = time.monotonic() + 30
    while left := left_over(f"{temp}/", f"session {process.pid}"):
        if time.monotonic() > end:
            pytest.fail(f"still there: {left}")
        time.sleep(0.1)
    return True


@pytest.mark.slow
def test_killed_in_its_rounds_and_in_its_final_evaluation_and_resumed_it_equals_one_that_was_not(
    tmp_path_factory: pytest.TempPathFactory, reference: RunFolder, started: list[subprocess.Popen[str]]
) -> None:
    """SIGKILL to the whole process group after round 1, and again once round 3 stands; Ray, two workers."""
    root = tmp_path_factory.mktemp("kill")
    config = write_config(root, **LONG, resources={"workers": 2})
    process = command("run", config, cwd=root)
    started.append(process)
    until(process, lambda: finished_rounds(only_run(root)) == 1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run = only_run(root)
    assert finished_rounds(run) in (1, 2)

    process = command("run", "--resume", run, cwd=root)
    started.append(process)
    until(process, lambda: finished_rounds(run) == 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not json.loads((run / "rounds" / "state.json").read_text())["finished"]
    assert not (run / "report.html").exists()

    code, output = run_command("run", "--resume", run, cwd=root)
    assert code == 0, output
    assert "round 1/3" not in output, "finished rounds are not repeated"
    assert_equal(run, reference)
    assert (run / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_a_signal_to_all_leaves_a_run_that_can_be_resumed_and_no_process(
    tmp_path_factory: pytest.TempPathFactory,
    reference: RunFolder,
    started: list[subprocess.Popen[str]],
    number: signal.Signals,
) -> None:
    """Ctrl-C in a terminal; SIGTERM from `timeout`, which signals its whole group."""
    root = tmp_path_factory.mktemp("stop")
    process = command("run", write_config(root, **LONG), cwd=root)
    started.append(process)
    until(process, lambda: finished_rounds(only_run(root)) == 1)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    run = only_run(root)
    assert process.returncode == 130, output
    assert f"go on with: fedderm run --resume {run}" in output
    assert "Traceback" not in output
    assert nothing_left(process, root)
    run_in_memory(RunFolder.open(run))
    assert_equal(run, reference)


@pytest.mark.slow
def test_sigterm_while_sites_are_prepared_says_how_to_go_on(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    """No signal handler of a simulation is there yet."""
    sites = [{"name": "north", "source": "simulated", "lesions": 4000, "render_size": 512}]
    process = command("run", write_config(tmp_path, sites), cwd=tmp_path)
    started.append(process)
    until(process, lambda: any(tmp_path.rglob("simulated")))
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"go on with: fedderm run --resume {only_run(tmp_path)}" in output
    assert "Traceback" not in output
