"""A Flower grid whose nodes are worked for by Ray actors, each driven by a thread of its own.

In place of Flower's simulation engine, which polls ten times a second, scans all nodes for all messages and
pickles a model for every one of them. Here a message goes to a worker the moment that one is free, arrays lie
in Ray's shared memory, written once however many sites read them, and a site stays with the worker that has
its images, model and caches open.
"""

import contextlib
import copy
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import ray
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from ray.exceptions import RayActorError, RayTaskError

from fedderm.local_grid import LocalGrid, failure
from fedderm.site_queue import SiteQueue, Waiting
from strategies.arrays import records

_LOG = logging.getLogger("flwr.fedderm")

_REPLACED_WITHIN: Final = 60.0
"""Seconds after which a worker that cannot be replaced (its machine is gone) is given up."""


class SiteWorker:
    """The process that works for sites: a Ray actor."""

    def __init__(self, app: ClientApp) -> None:
        self._app = app

    def ready(self) -> None:
        """Return once the process is there."""

    def work(
        self, message: Message, context: Context, names: list[str], *arrays: ArrayRecord
    ) -> tuple[Message, Context]:
        """Return a site's reply and its context. ``arrays`` are views of shared memory."""
        message.content.update(zip(names, arrays, strict=True))
        return self._app(message, context), context


@dataclass(frozen=True)
class _Parcel:
    """A message on its way: without its arrays, which lie in shared memory."""

    message: Message
    names: list[str]
    arrays: list[Any]

    def expired(self) -> bool:
        """Return whether nobody waits for the reply any more."""
        metadata = self.message.metadata
        return time.time() > metadata.created_at + metadata.ttl


class WorkerGrid(LocalGrid):
    """``count`` workers for ``nodes`` sites; ``start`` starts one. ``close`` ends them."""

    def __init__(self, nodes: int, count: int, start: Callable[[], Any]) -> None:
        super().__init__(nodes)
        self._start = start
        self._changed = threading.Condition()
        self._closed = False
        self._queue: SiteQueue[_Parcel] = SiteQueue(range(count))
        self._replies: dict[str, Message] = {}
        self._shared: dict[int, Any] = {}
        self._actors = {worker: start() for worker in range(count)}
        self._threads = [
            threading.Thread(target=self._drive, args=(worker,), daemon=True) for worker in self._actors
        ]
        for thread in self._threads:
            thread.start()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand the messages to the workers; return their ids."""
        ids = []
        for message in messages:
            ids.append(self.named(message))
            parcel = self._packed(message)
            with self._changed:
                self._queue.put(parcel, message.metadata.dst_node_id, message.metadata.message_type)
                self._changed.notify_all()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come; where there is none, wait for one for up to 0.2 seconds."""
        wanted = list(message_ids)
        with self._changed:
            if not any(key in self._replies for key in wanted):
                self._changed.wait(0.2)
            return [self._replies.pop(key) for key in wanted if key in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies that come within ``timeout`` seconds, as they came."""
        waiting = set(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        found: list[Message] = []
        while waiting and (end is None or time.monotonic() < end):
            came = list(self.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in came}
            found += came
        return found

    def close(self) -> None:
        """Kill the workers, in the middle of their work if need be."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            actors = list(self._actors.values())
        for actor in actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)
        for thread in self._threads:
            thread.join()

    def _packed(self, message: Message) -> _Parcel:
        """Return the message with its arrays in shared memory, once for all messages that hold them."""
        arrays = records(message.content, ArrayRecord)
        # The caller's message keeps its content: it is sent again where a worker dies.
        light = copy.copy(message)
        light.__dict__["_content"] = RecordDict(
            {name: record for name, record in message.content.items() if name not in arrays}
        )
        return _Parcel(light, list(arrays), [self._share(record) for record in arrays.values()])

    def _share(self, record: ArrayRecord) -> Any:
        key = id(record)
        if key not in self._shared:
            self._shared[key] = ray.put(record)
            weakref.finalize(record, self._shared.pop, key, None)
        return self._shared[key]

    def _drive(self, worker: int) -> None:
        """Let one worker do one message after the other until the grid is closed or the worker is lost."""
        while (next_ := self._next(worker)) is not None:
            start = time.monotonic()
            reply, lost = self._ask(worker, next_.job)
            with self._changed:
                self._queue.took(next_, time.monotonic() - start)
                if not next_.job.expired():
                    self._replies[next_.job.message.metadata.message_id] = reply
                self._changed.notify_all()
            del next_, reply  # or they would stay in memory while this thread waits for the next
            if lost and not self._replace(worker):
                return

    def _ask(self, worker: int, parcel: _Parcel) -> tuple[Message, bool]:
        """Return a site's reply, and whether the worker died over it."""
        node = parcel.message.metadata.dst_node_id
        try:
            work = self._actors[worker].work.remote(
                parcel.message, self._contexts[node], parcel.names, *parcel.arrays
            )
            reply, self._contexts[node] = ray.get(work)
            return reply, False
        except RayTaskError as error:
            # The site's own exception, without the worker's traceback in its text; that goes to the log.
            _LOG.error("%s", error)
            own = error.cause if isinstance(error.cause, Exception) else error
            return failure(parcel.message, own), False
        except RayActorError as error:
            return failure(parcel.message, error, ErrorCode.UNKNOWN), True
        except Exception as error:  # a reply that cannot be read, or Ray itself is going down
            _LOG.exception("no reply")
            return failure(parcel.message, error), False

    def _next(self, worker: int) -> Waiting[_Parcel] | None:
        """Return what this worker does next, as soon as there is something; None once the grid is closed."""
        with self._changed:
            while not self._closed:
                if (found := self._queue.take(worker)) is None:
                    self._changed.wait()
                elif not found.job.expired():
                    return found
            return None

    def _replace(self, worker: int) -> bool:
        """Start a worker in place of a dead one; return whether there is one again.

        In a cluster that has lost a machine there is no room for it: the others do its work then, unless it
        was the last.
        """
        begin = time.monotonic()
        while not self._closed:
            fresh = self._start()
            with self._changed:
                self._actors[worker] = fresh
            _LOG.warning("a worker process died and is replaced")
            while not self._closed:
                try:
                    ready, _ = ray.wait([fresh.ready.remote()], timeout=1.0)
                    if ready:
                        ray.get(ready)
                        return True
                except RayActorError:
                    break
                late = time.monotonic() - begin > _REPLACED_WITHIN
                if late and self._queue.workers > 1:
                    ray.kill(fresh)
                    self._retire(worker)
                    return False
        return False

    def _retire(self, worker: int) -> None:
        with self._changed:
            _LOG.warning("there is no room for a worker in place of the one that died; the others go on")
            self._queue.retire(worker)
            self._changed.notify_all()
