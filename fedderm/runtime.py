"""Starting and stopping a simulated federation: the one module that knows about Flower's simulation and Ray.

Importing it costs nothing, and it must come before the first import of Flower: it switches off what Flower
and Ray would send to the outside, and Flower reads that switch only once. What needs Flower and Ray
themselves is in ``fedderm.site_workers`` and imported when a simulation starts.
"""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from strategies.errors import Interrupted

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    from fedderm.site_workers import Workers

__all__ = ["Interrupted", "Resources", "gpus", "require_gpus", "simulate", "stop_requested"]

_SILENCE: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_enable_metrics_collection": "0",
    # Ray runs its workers at niceness 15: anything else on the machine would starve training.
    "RAY_worker_niceness": "0",
}
for _name, _value in _SILENCE.items():
    os.environ.setdefault(_name, _value)

_stop = threading.Event()


class Resources(BaseModel):
    """What a simulation may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: Annotated[int, Field(ge=1)] | None = None
    """Sites that work at the same time, each in a process. None: as many as fit on this machine."""
    cpus_per_site: Annotated[int, Field(ge=1)] = 1
    """Threads of a site. The result depends on it in the last bits, but never on the number of workers."""
    gpus_per_site: Annotated[float, Field(ge=0)] | Literal["auto"] = 0.0
    """Fraction of a GPU for each site; 0 trains on the CPU even where there is a GPU. auto: what a site needs
    is measured, and as many share a GPU as its memory holds; the CPU where there is none."""
    address: str | None = None
    """A running Ray cluster to use (HOST:PORT). None: Ray is started here and stopped at the end."""

    def workers_for(self, nodes: int) -> int:
        """Return how many worker processes ``nodes`` sites get on this machine."""
        if self.workers is not None:
            return min(self.workers, nodes)
        fitting = len(os.sched_getaffinity(0)) // self.cpus_per_site
        if self.gpu_fraction > 0:
            fitting = min(fitting, int(gpus() / self.gpu_fraction))
        return max(1, min(fitting, nodes))

    @property
    def gpu_fraction(self) -> float:
        """``gpus_per_site`` as a number; ``auto`` has been settled before (fedderm.gpu_sharing)."""
        if self.gpus_per_site == "auto":
            raise ValueError("resources.gpus_per_site: auto is not settled yet")
        return self.gpus_per_site


def stop_requested() -> bool:
    """Return whether the person has pressed Ctrl-C (or the process got SIGTERM) during this simulation.

    A server app asks this between steps and while it waits for sites, and then raises Interrupted.
    """
    return _stop.is_set()


def simulate(
    server_app: "ServerApp",
    client_app: "ClientApp",
    nodes: int,
    resources: Resources,
    log_file: Path,
    preload: Sequence[str] = (),
) -> None:
    """Run the apps over ``nodes`` simulated sites in this process and return when the server app has
    finished.

    Node ``i`` finds ``partition-id: i`` in its ``node_config``. What Flower and Ray have to say goes to
    ``log_file``. ``preload`` names modules that workers import while Ray starts. An exception of the server
    app is raised as it is. Ctrl-C and SIGTERM raise Interrupted once the workers are gone; a second one ends
    the process at once. Raises ValueError where GPUs are asked for and there is none. One simulation at a
    time in a process.
    """
    if nodes < 1:
        raise ValueError(f"a simulation needs at least one site, not {nodes}")
    require_gpus(resources)
    threads = str(resources.cpus_per_site)
    surroundings = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        # Workers import what this process can import, tests and a checkout that is not installed included.
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    if resources.address is None:
        surroundings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # workers too stay on the loopback interface
    _stop.clear()
    from fedderm.site_workers import Workers

    with _environment(surroundings), _log_to(log_file):
        workers = Workers(resources, nodes, _stop, preload)
        with _stoppable(workers):
            workers.run(server_app, client_app)


def gpus() -> int:
    """Return the number of NVIDIA GPUs that this process may use; 0 where there is no driver.

    Asks ``nvidia-smi`` (0.1 s) instead of torch, whose import takes seconds.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    found = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=60)
    count = sum(line.startswith("GPU ") for line in found.stdout.splitlines()) if found.returncode == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = min(count, len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))
    return count


def require_gpus(resources: Resources) -> None:
    """Raise ValueError where more of a GPU is asked for than this machine has."""
    wanted = resources.gpus_per_site
    if wanted == "auto" or wanted == 0 or resources.address is not None:
        return
    found = gpus()
    if found < wanted:
        held = "none" if found == 0 else str(found)
        raise ValueError(
            f"resources.gpus_per_site is {wanted:g} but this machine offers {held} "
            "(nvidia-smi, CUDA_VISIBLE_DEVICES); set it to 0 to train on the CPU"
        )


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables and restore what was there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _log_to(log_file: Path) -> Iterator[None]:
    """Send the loggers of Flower and Ray to a file and to nowhere else."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    loggers = [logging.getLogger("flwr"), logging.getLogger("ray")]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()


@contextlib.contextmanager
def _stoppable(workers: "Workers") -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a stop: the first asks and kills the workers, the second ends the process.

    Nothing is raised from the handler: an exception in the middle of Flower's thread pool would wait for its
    threads, and these for training that nobody needs any more.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        """Ask for a stop; the second time, leave at once."""
        del frame
        if _stop.is_set():
            workers.abandon()
            os._exit(128 + number)
        _stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
