"""Flower's Ray backend, with workers that can be replaced when they die and killed while they train."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import PARTITION_ID_KEY
from flwr.server.superlink.fleet.vce.backend import BackendConfig, raybackend
from flwr.simulation.ray_transport.ray_actor import BasicActorPool
from ray.exceptions import RayActorError, RayTaskError

from strategies.errors import Interrupted

_LOG = logging.getLogger("flwr.fedderm")


class WorkerBackend(raybackend.RayBackend):
    """Flower's Ray backend, with workers that can be replaced and killed."""

    def __init__(self, config: BackendConfig, start_ray: Callable[[], None], stop: threading.Event) -> None:
        self._start_ray = start_ray
        self._stop = stop
        self._closing = False
        self._lock = threading.Lock()
        self._actors: list[Any] = []
        super().__init__(config)

    def init_ray(self, backend_config: BackendConfig) -> None:
        del backend_config
        self._start_ray()

    def build(self, app_fn: Callable[[], ClientApp]) -> None:
        """Start the pool of workers; raises Interrupted where the person has asked to stop meanwhile."""
        if self._stop.is_set():
            raise Interrupted("stopped while Ray was starting")
        super().build(app_fn)
        with self._lock:
            self._actors = list(self._workers().pool)
            late = self._closing
        if late:
            self.kill()
            raise Interrupted("stopped while the workers were starting")

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        """Return a site's reply and context. Raises what the worker raised, RayActorError where it died."""
        idle = self._workers().pool
        actor: Any = idle.pop()
        partition = str(context.node_config[PARTITION_ID_KEY])
        try:
            _, reply, updated = ray.get(actor.run.remote(self.app_fn, message, partition, context))
            return reply, updated
        except RayActorError:
            actor = self._replace(actor)
            raise
        except RayTaskError as error:
            # The site's own exception, without the worker's traceback in its text; that goes to the log.
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        finally:
            idle.append(actor)

    def kill(self) -> None:
        """Kill all workers at once, in the middle of their work."""
        with self._lock:
            self._closing = True
            for actor in self._actors:
                with contextlib.suppress(Exception):
                    ray.kill(actor)
            self._actors = []

    def terminate(self) -> None:
        """Let go of the workers; Ray itself is stopped by Workers."""
        self.kill()

    def _replace(self, actor: Any) -> Any:
        """Return a fresh worker for a dead one; the dead one while the simulation is being stopped."""
        with self._lock:
            if self._closing:
                return actor
            _LOG.warning("a worker process died and is replaced")
            fresh: Any = self._workers().create_actor_fn()  # type: ignore[no-untyped-call]
            self._actors = [fresh if known is actor else known for known in self._actors]
            return fresh

    def _workers(self) -> BasicActorPool:
        if self.pool is None:
            raise RuntimeError("the workers have not been started")
        return self.pool


@contextlib.contextmanager
def flower_uses(make_backend: Callable[[BackendConfig], raybackend.RayBackend]) -> Iterator[None]:
    """Let Flower's simulation build its backend with ``make_backend``; it looks the class up by name."""
    original = raybackend.RayBackend
    raybackend.RayBackend = make_backend  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        raybackend.RayBackend = original  # type: ignore[misc]
