"""Seconds to start a simulation, hold two rounds with nothing to train at two sites, and stop.

The whole life of a process: imports, Ray, workers, two rounds of a thousand numbers each, and the end of all
processes. fedderm's own ``simulate`` beside Flower's ``run_simulation``, in turns, in fresh processes, by
their median. ``--site-code`` lets the workers import what a site trains with (PyTorch, timm), in both: what
a real first round waits for. ``flwr run`` has a home and a port of its own; its first run starts a
SuperLink, the second finds it running.

    python -m benchmarks.startup
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.claims import Claim, parser, report, told
from benchmarks.systems import small
from benchmarks.systems.proportional import MARK, end_marked
from benchmarks.systems.running import FLOWER, OURS, Failed, marked_process

TARGET: Final = 6.0
_PROJECT: Final = """
[project]
name = "empty"
version = "1.0.0"
description = "Nothing to train"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "benchmark"
fab-include = ["small_apps.py", "pyproject.toml"]
[tool.flwr.app.components]
serverapp = "small_apps:server"
clientapp = "small_apps:client"
[tool.flwr.app.config]
site-code = false
"""


def process_seconds(system: str, site_code: bool, workers: int) -> float:
    """Return the seconds of one process's life."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        task = small.Task(system, nodes=2, workers=workers, rounds=2, site_code=site_code)
        path = Path(name) / "task.json"
        path.write_text(json.dumps(asdict(task)), encoding="utf-8")
        return marked_process(["-m", "benchmarks.systems.small", str(path)], Path(name) / "said.log").seconds


def flwr_run() -> tuple[float, float]:
    """Return the seconds of ``flwr run`` where it has to start a SuperLink, and where that runs already."""
    mark = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        app, home = Path(name) / "app", Path(name) / "home"
        app.mkdir()
        home.mkdir()
        (app / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
        shutil.copy(Path(small.__file__).with_name("small_apps.py"), app)
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "local"\n[superlink.local]\naddress = ":local:"\n', encoding="utf-8"
        )
        try:
            return _flwr_seconds(app, home, mark), _flwr_seconds(app, home, mark)
        finally:
            end_marked(mark)


def _flwr_seconds(app: Path, home: Path, mark: str) -> float:
    port = home / "port"  # of the SuperLink that both runs use
    if not port.is_file():
        port.write_text(str(_free_port()), encoding="ascii")
    environment = {
        **os.environ,
        MARK: mark,
        # The SuperLink starts its helpers by name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": port.read_text(encoding="ascii"),
        "RAY_TMPDIR": str(home.parent),
    }
    nodes = "num-supernodes=2 client-resources-num-cpus=1"
    command = ["-c", "from flwr.cli.app import app; app()", "run", str(app), "--stream"]
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command, "--federation-config", nodes],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    said = done.stdout + done.stderr
    if done.returncode or "Strategy execution finished" not in said:
        raise Failed(f"flwr run did not finish (exit code {done.returncode}):\n{said[-1500:]}")
    return time.monotonic() - start


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def compared(what: str, site_code: bool, repeats: int, workers: int) -> dict[str, float]:
    """Return each system's median seconds, and print every one."""
    seconds: dict[str, list[float]] = {OURS: [], FLOWER: []}
    for repeat in range(repeats):
        for system in (OURS, FLOWER) if repeat % 2 == 0 else (FLOWER, OURS):
            seconds[system].append(process_seconds(system, site_code, workers))
            print(f"  {what}: {system} {seconds[system][-1]:.2f} s", flush=True)
    return {system: median(found) for system, found in seconds.items()}


def measure(asked: argparse.Namespace) -> list[Claim]:
    """Return the claims."""
    workers = asked.workers or len(os.sched_getaffinity(0))
    repeats = 1 if asked.quick else asked.repeats
    what, note = "start and stop, nothing to train", ""
    found = compared(what, False, repeats, workers)
    if asked.site_code:
        heavy = compared("the same, workers with PyTorch", True, repeats, workers)
        note = f"with PyTorch in the workers {heavy[OURS]:.1f} s, Flower {heavy[FLOWER]:.1f} s; "
    if asked.flwr:
        cold, warm = flwr_run()
        note += f"flwr run {cold:.1f} s with its SuperLink to start, {warm:.1f} s with it running"
    return [Claim(what=what, unit="s", ours=found[OURS], flower=found[FLOWER], target=TARGET, note=note)]


def main() -> None:
    """Print seconds and claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--site-code", action="store_true", help="once more, workers importing PyTorch")
    arguments.add_argument("--no-flwr", dest="flwr", action="store_false", help="leave out flwr run")
    asked = arguments.parse_args()
    report(measure(asked), asked)


if __name__ == "__main__":
    told(main)
