"""Fixtures shared by all tests."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from federations import AppGrid
    from flower_processes import Flower

    from fedderm.runs import RunFolder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real dermoscopic images beside the checkout; skip where it is absent."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not (folder / "ham10000" / "HAM10000_metadata").is_file():
        pytest.skip(f"real images are not at hand ({folder.name} beside the checkout is absent)")
    return folder


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all small federations: their centres are rendered once."""
    return tmp_path_factory.mktemp("federation")


@pytest.fixture(scope="session")
def finished(root: Path) -> "tuple[RunFolder, AppGrid]":
    """Return two rounds of FedAvg over two training sites and a held-out one."""
    from federations import new_run, run_in_memory

    folder = new_run(root)
    return folder, run_in_memory(folder)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let PyTorch have one thread: several only wait for each other over small nets."""
    import torch

    from fedderm.devices import use_threads

    before = torch.get_num_threads()
    use_threads(1)
    yield
    use_threads(before)


@pytest.fixture
def flower() -> "Iterator[Flower]":
    """Yield Flower's command line in a folder whose path is short enough for sockets; ends its processes."""
    from flower_processes import Flower

    folder = Path(tempfile.mkdtemp(prefix="fw", dir="/tmp"))
    flower = Flower(folder)
    yield flower
    flower.kill()
    shutil.rmtree(folder, ignore_errors=True)
