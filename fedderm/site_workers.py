"""The worker processes of a simulation: Ray, started lean and stopped for certain.

The server app runs here, on a grid whose nodes are Ray actors (``fedderm.worker_grid``); no process or folder
is left behind.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import ServerApp
from ray._private import node as ray_node
from ray._private import ray_constants
from ray._private import services as ray_services
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker

from fedderm.runtime import Resources
from fedderm.site_worker import SiteWorker
from fedderm.worker_grid import WorkerGrid
from strategies.errors import Interrupted

_LOOPBACK: Final = "127.0.0.1"
_STORE_PER_WORKER: Final = 2 * 2**30
"""Bytes of shared memory for each worker: its model on the way out and back, with room for the next."""
_SENT_WHOLE: Final = 2 * 2**20
"""Bytes up to which a reply comes with its message. A larger one is put into shared memory for the server to
map, which costs Ray's daemon more processor time than copying so many bytes. A running cluster keeps its own
limit, 100 kB."""
_FREED_AT_A_TIME: Final = 1
"""How many arrays in shared memory that nobody holds any more Ray collects before it frees them. Left to
itself it waits for a hundred or for a second, and a round's model would find the one before it, and the last
replies, still there. A running cluster keeps its own number."""
_LONGEST_TEMP: Final = 40
"""Ray puts sockets under its folder, and a socket's path may have 107 characters."""


class Workers:
    """One simulation's Ray and its workers."""

    def __init__(
        self, resources: Resources, nodes: int, stop: threading.Event, preload: Sequence[str]
    ) -> None:
        self._resources = resources
        self._nodes = nodes
        self._stop = stop
        self._preload = [SiteWorker.__module__, *preload]
        self._folder: Path | None = None

    def run(self, server_app: ServerApp, client_app: ClientApp) -> None:
        """Run the apps to the end. Raises what the server app raised, what Ray raised, or Interrupted."""
        grid: WorkerGrid | None = None
        try:
            self.start_ray()
            if self._stop.is_set():
                raise Interrupted("stopped while Ray was starting")
            options = {"num_cpus": self._resources.cpus_per_site, "num_gpus": self._resources.gpu_fraction}
            worker = ray.remote(SiteWorker).options(**options)
            app = ray.put(client_app)
            grid = WorkerGrid(self._nodes, self._count(), lambda: worker.remote(app))
            server_app(grid=grid, context=Context(1, SUPERLINK_NODE_ID, {}, RecordDict(), {}))
        except Exception as error:
            if self._stop.is_set() and not isinstance(error, Interrupted):
                raise Interrupted("stopped; the run can be resumed") from error
            raise
        finally:
            if grid is not None:
                grid.close()
            self._close()

    def abandon(self) -> None:
        """Remove the folder at once: the process is about to end, and Ray's own watchdog ends the rest."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def start_ray(self) -> None:
        """Start Ray on this machine, or connect to the cluster that was named; use one that runs already."""
        if ray.is_initialized():
            return
        # It says how a later Ray will treat GPUs of workers that asked for none; ours keep seeing none.
        warnings.filterwarnings("ignore", message="Tip: In future versions of Ray", category=FutureWarning)
        on_term = signal.getsignal(signal.SIGTERM)
        common: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
        if self._resources.address is not None:
            variables = {
                name: os.environ[name]
                for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH")
            }
            _require_answer(self._resources.address)
            with _changed([_OUR_SIGNALS]):
                ray.init(address=self._resources.address, runtime_env={"env_vars": variables}, **common)
        else:
            count = self._resources.workers_for(self._nodes)
            self._folder = Path(tempfile.mkdtemp(prefix="fedderm-", dir=_short_temp()))
            with _changed([_OUR_SIGNALS, *_LEAN_HEAD]), _in_time():
                ray.init(
                    num_cpus=count * self._resources.cpus_per_site,
                    include_dashboard=False,
                    object_store_memory=_store_bytes(count),
                    _temp_dir=str(self._folder),
                    _node_ip_address=_LOOPBACK,
                    _system_config={
                        "preload_python_modules": self._preload,
                        "max_direct_call_object_size": _SENT_WHOLE,
                        "free_objects_batch_size": _FREED_AT_A_TIME,
                    },
                    **common,
                )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_term)  # Ray's C++ has put one there, which aborts

    def _count(self) -> int:
        """Return how many workers there are: in a cluster, as many as its machines hold.

        Raises ValueError where they hold none.
        """
        if self._resources.address is None:
            return self._resources.workers_for(self._nodes)
        machines: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        holds = sum(self._held_by(machine["Resources"]) for machine in machines if machine["Alive"])
        if holds == 0:
            raise ValueError(
                f"no machine of the Ray cluster {self._resources.address} has room for a site, which takes "
                f"{self._resources.cpus_per_site} CPUs and {self._resources.gpu_fraction:g} GPUs; add one, "
                "or lower resources.cpus_per_site and gpus_per_site"
            )
        return min(holds, self._nodes, self._resources.workers or holds)

    def _held_by(self, machine: Mapping[str, float]) -> int:
        held = int(machine.get("CPU", 0) // self._resources.cpus_per_site)
        if self._resources.gpu_fraction > 0:
            held = min(held, int(machine.get("GPU", 0) / self._resources.gpu_fraction))
        return held

    def _close(self) -> None:
        """Stop Ray if it was started here, and remove its folder."""
        if self._folder is None and self._resources.address is None:
            return
        ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _require_answer(address: str) -> None:
    """Raise ValueError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"resources.address: no Ray cluster answers at {address!r} ({error}); give its head's HOST:PORT, "
            "which `ray start --head` prints, or leave address out to work on this machine"
        ) from None


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """Say of a Ray that has not come up within the 30 seconds it gives itself what a person can do."""
    try:
        yield
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        raise ValueError(
            "Ray did not start within its 30 seconds: this machine is too busy; go on with --resume when it "
            "has room, or with fewer resources.workers"
        ) from None


def _nothing(*_: object, **__: object) -> None:
    return None


_Change = tuple[Any, str, Any]
_OUR_SIGNALS: Final[_Change] = (ray_utils, "set_sigterm_handler", _nothing)
"""``ray.init`` would put a handler of its own in the place of ours as it begins."""
_LEAN_HEAD: Final[tuple[_Change, ...]] = (
    (ray_node.Node, "start_monitor", _nothing),
    (ray_node.Node, "start_log_monitor", _nothing),
    (ray_node.Node, "start_api_server", _nothing),
    (ray_worker, "listen_error_messages", _nothing),
    (ray_constants, "ENABLE_RAY_CLUSTER", False),
    (ray_services, "ConsolePopen", partial(subprocess.Popen, process_group=0)),
)
"""What starts Ray without the processes that serve a cluster, silent, and reachable from this machine only.

``ray.init`` has no setting for any of this. Left out are the autoscaler, the forwarder of logs, the
dashboard server and the printing of Ray's own errors (the reply says what happened). Measured on two
busy cores: 14.5 s for start and stop with them, 7.0 s without. Given the loopback address, Ray looks up
the host's own one and listens on all interfaces, unless it thinks that it cannot be part of a cluster.

``timeout`` and many a CI send SIGTERM to the whole process group. Ray's processes would die of it at once,
and the driver wait a minute for them before Ray ends it without a word, so they get a group of their own.
"""


@contextlib.contextmanager
def _changed(changes: Sequence[_Change]) -> Iterator[None]:
    """Replace attributes of Ray's modules, where this version of Ray has them, and put them back."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes if hasattr(owner, name)]
    for owner, name, value in changes:
        if hasattr(owner, name):
            setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)


def _short_temp() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _LONGEST_TEMP else "/tmp"


def _store_bytes(workers: int) -> int:
    """Return bytes of shared memory for Ray: by workers, within 30 % of memory and what /dev/shm has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared).free if shared.is_dir() else memory
    return int(max(min(workers * _STORE_PER_WORKER, 0.3 * memory, 0.9 * free), 128 * 2**20))
