"""Flower's own programs: where they lie, and in which environment they run."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedderm.deploy.private_files import write_private

_PATIENCE_S = 15.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded before a fork, where nothing may be loaded


@contextlib.contextmanager
def flower_program(command: Sequence[str], home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Keep one of Flower's programs running while the context lasts; then it is asked to end, and made to.

    ``home`` is where Flower keeps its own files. Programs installed beside this Python go by their names.
    """
    folder = Path(sys.executable).parent
    name, *arguments = command
    path = os.pathsep.join((str(folder), os.environ.get("PATH", os.defpath)))
    process = subprocess.Popen(
        [str(folder / name), *arguments],
        env={**os.environ, "PATH": path, "FLWR_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        # Ctrl-C in a terminal reaches this process alone, which then ends the other in order.
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_PATIENCE_S)
        process.kill()
        process.wait()


def _end_with_parent() -> None:
    """Have Linux send this process SIGTERM when the one that started it is gone, killed or not."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def secret_file(secret: bytes) -> Iterator[Path]:
    """Yield a file with the secret that two of Flower's programs share, in a folder of this user's alone."""
    with tempfile.TemporaryDirectory(prefix="fedderm-") as folder:
        path = Path(folder) / "secret"
        write_private(path, secret)
        yield path
