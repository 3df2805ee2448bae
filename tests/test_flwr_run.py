"""``flwr run``: the same app from Flower's bundle, with a SuperLink of its own, and nothing left behind."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from federations import new_run, only_run, run_in_memory, same, weights, write_config
from flower_processes import Flower
from flwr.cli.build import build_fab_from_disk

ROOT = Path(__file__).resolve().parents[1]
NODES = "num-supernodes=3 client-resources-num-cpus=1"
SIMULATION = ("--federation-config", NODES)


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


@pytest.mark.slow
def test_flwr_run_gives_the_weights_of_fedderm_run_and_leaves_nothing_when_stopped(
    flower: Flower, clone: Path, tmp_path: Path
) -> None:
    reference = new_run(tmp_path / "reference", rounds=1)
    run_in_memory(reference)
    # Ray's workers import torch only now, all at once: on a busy machine that may take minutes.
    config = write_config(tmp_path, rounds=1, strategy={"deadline": 500.0})
    superlink = flower.start("--simulation")
    done = flower.run(clone, f'config="{config}"', *SIMULATION)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    run = only_run(tmp_path)
    assert json.loads((run / "rounds" / "state.json").read_text())["finished"], told
    assert same(weights(run), weights(reference.path))
    assert (run / "report.html").stat().st_size > 50_000
    assert f"report: {run / 'report.html'}" in told

    wrong = flower.run(clone, 'config="no-such.yaml"', *SIMULATION)
    assert "no-such.yaml: cannot be read" in wrong.stdout + wrong.stderr

    superlink.terminate()
    superlink.wait(timeout=30)
    assert flower.gone(30), flower.processes()


@pytest.mark.slow
def test_a_port_in_use_is_told_and_does_not_hang(flower: Flower, clone: Path) -> None:
    with socket.create_server(("127.0.0.1", flower.port)):
        done = flower.run(clone, 'config="configs/demo.yaml"', *SIMULATION)
    assert done.returncode != 0
    assert "Failed to start local SuperLink" in done.stdout + done.stderr
    assert flower.gone(30), flower.processes()
