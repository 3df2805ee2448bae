"""Simulations start, fail, lose workers and stop as a person expects, and leave nothing behind."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp
from tiny_apps import client_app

from fedderm import runtime
from fedderm.runtime import Interrupted, Resources, simulate, stop_requested
from strategies.catalogue import build
from strategies.exchange import Event, Member, Reply, exchange, wait_for_nodes
from strategies.round_settings import RoundSettings
from strategies.rounds import train_round

QUICK = Resources(workers=2)


def ask(
    grid: Grid, nodes: int, on_event: Callable[[Event], None] | None = None, **config: object
) -> list[Reply]:
    """Query all nodes and return their replies."""
    ids = wait_for_nodes(grid, nodes, deadline_s=30)
    content = RecordDict({"config": ConfigRecord(config)})  # type: ignore[arg-type]
    requests = [(Member(node, f"node-{i}", 0), content) for i, node in enumerate(ids)]
    return list(exchange(grid, requests, "query", 60, on_event, should_stop=stop_requested))


def card(reply: Reply) -> ConfigRecord:
    assert reply.message is not None, reply.reason
    return reply.message.content.config_records["card"]


@pytest.fixture
def short_temp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give Ray a folder of this test alone, with a path short enough for its sockets."""
    with tempfile.TemporaryDirectory(prefix="fd", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def ray_processes(folder: Path) -> list[str]:
    """Return the command lines of Ray's processes that belong to sessions under ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"{folder}/fedderm-" in line:
            found.append(line)
    return found


@pytest.mark.slow
def test_a_simulation_trains_survives_a_killed_worker_and_leaves_nothing(
    tmp_path: Path, short_temp: Path
) -> None:
    """One start of Ray for all of it: starting costs more than everything asked here."""
    seen: dict[str, object] = {}

    def main(grid: Grid, _: Context) -> None:
        cards = [card(reply) for reply in ask(grid, 3)]
        seen["partitions"] = sorted(int(c["partition"]) for c in cards)
        seen["threads"] = {c["threads"] for c in cards}
        seen["others"] = {c["pid"] for c in cards} - {os.getpid()}

        events: list[Event] = []
        replies = ask(grid, 3, events.append, die=1, once=str(tmp_path / "died"))
        seen["after death"] = [reply.reason for reply in replies]
        seen["resent"] = sum(event.kind == "resent" for event in events)

        seen["raised"] = [reply.reason for reply in ask(grid, 3, **{"raise": 2})]
        seen["later"] = [[reply.reason for reply in ask(grid, 3)] for _ in range(3)]

        ids = {int(card(r)["partition"]): r.member.node_id for r in ask(grid, 3)}
        members = [Member(ids[i], f"site-{i}", 10 * (i + 1)) for i in range(3)]
        settings = RoundSettings(deadline_s=60, quorum=1, fraction=1, seed=1, weighting="examples")
        arrays = ArrayRecord({"w": _array([0.0, 1.0])})
        result = train_round(build("fedavg"), grid, 1, arrays, ConfigRecord(), members, settings)
        seen["trained"] = result.arrays["w"].numpy().tolist()

    server = ServerApp()
    server.main()(main)
    simulate(server, client_app, 3, QUICK, tmp_path / "logs" / "flower.log")

    assert seen["partitions"] == [0, 1, 2]
    assert seen["threads"] == {"1"}
    assert len(seen["others"]) == 2, "two workers serve three sites"
    assert (tmp_path / "died").exists()
    assert seen["after death"] == [None, None, None], "the lost message is sent again, to a fresh worker"
    assert seen["resent"] >= 1
    raised = [reason for reason in seen["raised"] if reason]
    assert len(raised) == 1
    assert "this site cannot read its images" in raised[0]
    assert seen["later"] == [[None] * 3] * 3, "no dead worker stays in the pool"
    # weights 10, 20, 30 and updates 1, 2, 3: (10 + 40 + 90) / 60
    np.testing.assert_allclose(seen["trained"], [7 / 3, 1 + 7 / 3], rtol=1e-6)
    assert list(short_temp.iterdir()) == []
    assert ray_processes(short_temp) == []
    assert "worker process died" in (tmp_path / "logs" / "flower.log").read_text()
    assert logging.getLogger("flwr").handlers, "the console's handler is back"


def _array(values: list[float]):
    from flwr.app import Array

    return Array(np.asarray(values, dtype=np.float32))


class OurError(Exception):
    """Something that only this test can raise."""


@pytest.mark.slow
def test_what_the_server_app_raises_is_raised_as_it_is(tmp_path: Path, short_temp: Path) -> None:
    server = ServerApp()

    @server.main()
    def main(_: Grid, __: Context) -> None:
        raise OurError("no quorum")

    with pytest.raises(OurError, match="no quorum"):
        simulate(server, client_app, 1, Resources(workers=1), tmp_path / "flower.log")
    assert ray_processes(short_temp) == []


SCRIPT = """
import sys, threading, os, signal, time
from pathlib import Path
from fedderm.runtime import Interrupted, Resources, simulate, stop_requested
from flwr.serverapp import ServerApp
from flwr.app import ConfigRecord, RecordDict
from strategies.exchange import Member, exchange, wait_for_nodes
from tiny_apps import client_app

folder = sys.argv[1]
server = ServerApp()

@server.main()
def main(grid, context):
    ids = wait_for_nodes(grid, 4, deadline_s=60)
    content = RecordDict({"config": ConfigRecord({"sleep": 300.0, "folder": folder})})
    requests = [(Member(i, str(i), 0), content) for i in ids]
    list(exchange(grid, requests, "query", 600, should_stop=stop_requested))

try:
    simulate(server, client_app, 4, Resources(workers=2), Path(folder) / "flower.log")
except Interrupted:
    print("INTERRUPTED", flush=True)
    sys.exit(130)
"""


def shared_memory() -> int:
    """Return the bytes of shared memory that this process has touched."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("RssShmem:")[2].split()[0])


@pytest.mark.slow
@pytest.mark.usefixtures("short_temp")
def test_shared_memory_is_used_again_as_soon_as_nobody_holds_it(tmp_path: Path) -> None:
    """Twenty arrays of 16 MiB, one after the other within a second, take the room of a few.

    This process writes them all: its own pages of shared memory are counted.
    """
    server, grown = ServerApp(), list[int]()
    each = 16 * 2**20

    @server.main()
    def main(_: Grid, __: Context) -> None:
        before = shared_memory()
        for value in range(20):
            array = np.full(each, value % 100, np.uint8)
            there = ray.put(array)
            assert int(ray.get(there)[-1]) == value
            del there
            time.sleep(0.03)
        grown.append(shared_memory() - before)

    simulate(server, client_app, 1, Resources(workers=1), tmp_path / "flower.log")
    assert each <= grown[0] < 8 * each


def busy_simulation(folder: Path) -> subprocess.Popen[str]:
    """Start a simulation in its own process group and return once two workers are busy for minutes."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    roots = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while len(list(folder.glob("busy-*"))) < 2:
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"the simulation did not start: {process.communicate()[0]}")
        time.sleep(0.1)
    return process


def group(number: int) -> set[int]:
    """Return the processes of a process group."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rsplit(")", 1)[1].split()[2]) == number:
                found.add(int(process.name))
        except OSError:
            continue
    return found


def gone(pids: list[int], within_s: float) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_signal_ends_a_busy_simulation_within_seconds(
    tmp_path: Path, short_temp: Path, whole_group: bool, number: signal.Signals
) -> None:
    """A terminal and `timeout` signal the whole process group, Ray included; others the process alone."""
    process = busy_simulation(tmp_path)
    workers = [int(path.name.removeprefix("busy-")) for path in tmp_path.glob("busy-*")]
    asked = time.monotonic()
    if whole_group:
        for pid in group(process.pid) - {process.pid}:  # whatever else is in it has the signal first
            os.kill(pid, number)
        time.sleep(1)
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    took = time.monotonic() - asked
    assert process.returncode == 130, output
    assert output.strip() == "INTERRUPTED", "one clean line: no traceback, no chatter"
    assert took < 15, f"{took:.1f} s; the sites would have been busy for 300 s"
    assert gone(workers, 5)
    assert ray_processes(short_temp) == []
    assert list(short_temp.iterdir()) == []


@pytest.mark.slow
def test_a_killed_simulation_takes_its_workers_along(tmp_path: Path, short_temp: Path) -> None:
    process = busy_simulation(tmp_path)
    workers = [int(path.name.removeprefix("busy-")) for path in tmp_path.glob("busy-*")]
    process.kill()
    process.communicate(timeout=60)
    assert gone(workers, 30)
    end = time.monotonic() + 30
    while ray_processes(short_temp) and time.monotonic() < end:
        time.sleep(0.1)
    assert ray_processes(short_temp) == []


def test_a_machine_too_busy_for_ray_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray gives itself 30 seconds and then raises a bare Exception, which would read as a fault of ours."""

    def late(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    server = ServerApp()

    @server.main()
    def main(_: Grid, __: Context) -> None:
        return

    monkeypatch.setattr("ray.init", late)
    with pytest.raises(
        ValueError, match=r"Ray did not start within its 30 seconds: this machine is too busy"
    ):
        simulate(server, client_app, 1, Resources(workers=1), tmp_path / "flower.log")


def test_gpus_without_a_gpu_are_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert runtime.gpus() == 0
    with pytest.raises(ValueError, match=r"gpus_per_site is 0\.5 but this machine offers none"):
        simulate(ServerApp(), client_app, 1, Resources(gpus_per_site=0.5), tmp_path / "flower.log")
    assert not (tmp_path / "flower.log").exists()


def test_no_more_workers_than_sites_and_never_none() -> None:
    assert Resources(workers=8).workers_for(3) == 3
    assert Resources(cpus_per_site=10_000).workers_for(3) == 1
    assert Resources().workers_for(10_000) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cpus_per_site": 0}, {"gpus_per_site": -1}, {"gpu": 1}])
def test_resources_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Resources.model_validate(wrong)


def test_importing_the_runtime_imports_neither_flower_nor_ray_and_silences_both() -> None:
    code = (
        "import sys, os; import fedderm.runtime; "
        "assert not {'flwr', 'ray', 'torch'} & set(sys.modules); "
        "assert os.environ['FLWR_TELEMETRY_ENABLED'] == '0' == os.environ['RAY_USAGE_STATS_ENABLED']"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr


def test_interrupted_is_one_class_everywhere() -> None:
    from strategies.errors import Interrupted as FromStrategies

    assert Interrupted is FromStrategies
