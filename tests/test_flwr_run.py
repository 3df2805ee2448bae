"""``flwr run``: the same app from Flower's bundle, with a SuperLink of its own, and nothing left behind."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from federations import new_run, only_run, run_in_memory, same, weights, write_config
from flwr.cli.build import build_fab_from_disk

ROOT = Path(__file__).resolve().parents[1]
NODES = "num-supernodes=3 client-resources-num-cpus=1"


LEFT_OUT = (".*", "__pycache__", "runs", "*.egg-info", "build")
"""What a fresh clone does not have; Flower would look at each of a virtual environment's files."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "fedderm"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return folder


@pytest.fixture(scope="module")
def bundle(clone: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(build_fab_from_disk(clone)))


def test_the_bundle_holds_the_app_and_nothing_else(bundle: zipfile.ZipFile) -> None:
    names = {name for name in bundle.namelist() if not name.startswith(".info/")}
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"fedderm", "sites", "strategies", "configs", "README.md", "pyproject.toml"}
    ours = {
        str(path.relative_to(ROOT))
        for folder in ("fedderm", "sites", "strategies")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert ours <= names
    assert "configs/demo.yaml" in names, "the run config's default"
    size = sum(info.compress_size for info in bundle.infolist())
    assert size < 2 * 2**20, "Flower refuses more than 10 MB"


def test_the_unpacked_bundle_works_by_itself(bundle: zipfile.ZipFile, tmp_path: Path) -> None:
    """Flower puts it first on the path: what it lacks would be missing, installed elsewhere or not."""
    bundle.extractall(tmp_path / "app")
    code = (
        "import pathlib, fedderm.server_app, fedderm.client_app, sites, strategies\n"
        "from fedderm import config\n"
        "from fedderm.report import build\n"
        "here = pathlib.Path.cwd()\n"
        "for module in (fedderm.server_app, sites, strategies, build):\n"
        "    assert here in pathlib.Path(module.__file__).parents, module.__file__\n"
        "folder = pathlib.Path(build.__file__).parent\n"
        "assert (folder / build.TEMPLATE).is_file() and (folder / build.STYLE).is_file()\n"
        "assert config.load(fedderm.server_app._find('configs/demo.yaml')).name == 'demo'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "app",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "app")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


class Flower:
    """Flower's command line with a home, a port and a Ray folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.port = free_port()
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self.home),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(self.port),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(folder),
        }
        self.connect(":local:")

    def connect(self, address: str) -> None:
        """Name the SuperLink that ``flwr run`` uses; ``:local:`` is one that it starts itself."""
        lines = ["[superlink]", 'default = "local"', "[superlink.local]", f'address = "{address}"']
        if address != ":local:":
            lines.append("insecure = true")
        (self.home / "config.toml").write_text("\n".join(lines))

    def start(self) -> subprocess.Popen[bytes]:
        """Start a SuperLink and return once it answers; ``flwr run`` itself waits only 15 s for it."""
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        process = subprocess.Popen(
            ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess", *where],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"the SuperLink did not start (exit code {process.poll()})")
                time.sleep(0.2)
        self.connect(f"127.0.0.1:{self.port}")
        return process

    def run(self, app: Path, config: str) -> subprocess.CompletedProcess[str]:
        """Run the app with ``config`` as its run config, and return when it has ended."""
        options = ["--federation-config", NODES, "--run-config", config, "--stream"]
        return subprocess.run(
            ["flwr", "run", str(app), *options],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def processes(self) -> dict[int, str]:
        """Return the command lines of the processes that inherited this home, by id."""
        found = {}
        mark = f"FLWR_HOME={self.home}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found[int(process.name)] = (
                        (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    )
            except OSError:
                continue
        return {pid: line for pid, line in found.items() if line}

    def gone(self, within_s: float) -> bool:
        end = time.monotonic() + within_s
        while self.processes():
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@pytest.fixture
def flower() -> Iterator[Flower]:
    """Ray's sockets need a short path, which pytest's own folders have not."""
    folder = Path(tempfile.mkdtemp(prefix="fw", dir="/tmp"))
    flower = Flower(folder)
    yield flower
    for pid in flower.processes():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_flwr_run_gives_the_weights_of_fedderm_run_and_leaves_nothing_when_stopped(
    flower: Flower, clone: Path, tmp_path: Path
) -> None:
    reference = new_run(tmp_path / "reference", rounds=1)
    run_in_memory(reference)
    # Ray's workers import torch only now, all at once: on a busy machine that may take minutes.
    config = write_config(tmp_path, rounds=1, strategy={"deadline": 500.0})
    superlink = flower.start()
    done = flower.run(clone, f'config="{config}"')
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    run = only_run(tmp_path)
    assert json.loads((run / "rounds" / "state.json").read_text())["finished"], told
    assert same(weights(run), weights(reference.path))
    assert (run / "report.html").stat().st_size > 50_000
    assert f"report: {run / 'report.html'}" in told

    wrong = flower.run(clone, 'config="no-such.yaml"')
    assert "no-such.yaml: cannot be read" in wrong.stdout + wrong.stderr

    superlink.terminate()
    superlink.wait(timeout=30)
    assert flower.gone(30), flower.processes()


@pytest.mark.slow
def test_a_port_in_use_is_told_and_does_not_hang(flower: Flower, clone: Path) -> None:
    with socket.create_server(("127.0.0.1", flower.port)):
        done = flower.run(clone, 'config="configs/demo.yaml"')
    assert done.returncode != 0
    assert "Failed to start local SuperLink" in done.stdout + done.stderr
    assert flower.gone(30), flower.processes()
