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
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import ray
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from fedderm.local_grid import LocalGrid, failure
from fedderm.site_queue import SiteQueue, Waiting
from strategies.arrays import NumPyArray, records

_LOG = logging.getLogger("flwr.fedderm")

_AT_A_TIME: Final = 2
"""Messages at a worker: one that it works on, one that waits there."""
_REPLACED_WITHIN: Final = 60.0
"""Seconds after which a worker that cannot be replaced (its machine is gone) is given up."""


@dataclass(frozen=True)
class _Parcel:
    """A message on its way: without its arrays, which lie in shared memory."""

    message: Message
    arrays: Mapping[str, Any]
    """What stands for each record, by its name."""

    def expired(self) -> bool:
        """Return whether nobody waits for the reply any more."""
        metadata = self.message.metadata
        return time.time() > metadata.created_at + metadata.ttl


@dataclass(frozen=True)
class _UnderWay:
    """A message at a worker."""

    waiting: Waiting[_Parcel]
    answer: Any
    sent: float = field(default_factory=time.monotonic)

    @property
    def parcel(self) -> _Parcel:
        return self.waiting.job


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
        self._held: dict[int, set[str]] = {worker: set() for worker in range(count)}
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
        return _Parcel(light, {name: self._share(record) for name, record in arrays.items()})

    def _share(self, record: ArrayRecord) -> Any:
        key = id(record)
        if key not in self._shared:
            self._shared[key] = ray.put(record)
            weakref.finalize(record, self._let_go, key)
            for name, there in ray.get(self._shared[key]).items():
                if isinstance(here := record[name], NumPyArray):
                    here.values = there.values  # or each model that is sent would be in memory twice
        return self._shared[key]

    def _let_go(self, key: int) -> None:
        """Forget a record that is gone, here and at the workers: what they hold stays in shared memory."""
        ref = self._shared.pop(key, None)
        with self._changed:
            if ref is None or self._closed:
                return
            for worker, held in self._held.items():
                if ref.hex() in held:
                    held.remove(ref.hex())
                    with contextlib.suppress(Exception):  # a worker that is dead holds nothing
                        self._actors[worker].let_go.remote(ref.hex())

    def _drive(self, worker: int) -> None:
        """Let one worker do one message after the other until the grid is closed or the worker is lost.

        While it works the next message is on its way, so that it does not wait for this process in between.
        """
        under_way: deque[_UnderWay] = deque()
        begin = time.monotonic()
        while True:
            while len(under_way) < _AT_A_TIME and (waiting := self._next(worker, under_way)) is not None:
                under_way.append(_UnderWay(waiting, self._sent(worker, waiting.job)))
            if not under_way:
                return
            done = under_way.popleft()
            reply, lost = self._reply(done)
            with self._changed:
                now = time.monotonic()
                self._queue.took(done.waiting, now - max(begin, done.sent))
                if not done.parcel.expired():
                    self._replies[done.parcel.message.metadata.message_id] = reply
                if lost:  # what it had not begun is nobody's loss
                    while under_way:
                        self._queue.put_back(under_way.pop().waiting)
                self._changed.notify_all()
            begin = now
            del done, reply  # or they would stay in memory while this thread waits for the next
            if lost and not self._replace(worker):
                return

    def _sent(self, worker: int, parcel: _Parcel) -> Any:
        """Return what stands for the worker's answer, or why it could not be asked."""
        context = self._contexts[parcel.message.metadata.dst_node_id]
        keys = {name: ref.hex() for name, ref in parcel.arrays.items()}
        with self._changed:  # nothing is let go between this look at what the worker holds, and the message
            lacking = {ref.hex(): ref for ref in parcel.arrays.values()}
            for key in self._held[worker] & lacking.keys():
                del lacking[key]
            self._held[worker] = set(keys.values())
            try:
                if lacking:
                    self._actors[worker].hold.remote(list(lacking), *lacking.values())
                return self._actors[worker].work.remote(parcel.message, context, keys)
            except Exception as error:  # Ray itself is going down
                return error

    def _reply(self, done: _UnderWay) -> tuple[Message, bool]:
        """Return a site's reply, and whether the worker died over it."""
        message = done.parcel.message
        try:
            if isinstance(done.answer, Exception):
                raise done.answer
            reply, self._contexts[message.metadata.dst_node_id] = ray.get(done.answer)
            return reply, False
        except RayTaskError as error:
            # The site's own exception, without the worker's traceback in its text; that goes to the log.
            _LOG.error("%s", error)
            own = error.cause if isinstance(error.cause, Exception) else error
            return failure(message, own), False
        except (RayActorError, ObjectLostError) as error:
            # A reply lies where it was written until it is read here: it is lost with the worker's machine.
            return failure(message, error, ErrorCode.UNKNOWN), True
        except Exception as error:  # a reply that cannot be read, or Ray itself is going down
            _LOG.exception("no reply")
            return failure(message, error), False

    def _next(self, worker: int, under_way: Sequence[_UnderWay]) -> Waiting[_Parcel] | None:
        """Return what this worker does next, as soon as there is something; None once the grid is closed.

        Behind messages that are under way: None where there is nothing now that is better not left to others.
        """
        with self._changed:
            while not self._closed:
                found = self._queue.take(worker, [one.waiting.site for one in under_way])
                if found is not None and not found.job.expired():
                    return found
                if found is None:
                    if under_way:
                        return None
                    self._changed.wait()
            return None

    def _replace(self, worker: int) -> bool:
        """Start a worker in place of a dead one; return whether there is one again.

        In a cluster that has lost a machine there is no room for it: the others do its work then, unless it
        was the last.
        """
        begin = time.monotonic()
        with contextlib.suppress(Exception):  # its reply was lost, and it may still be there
            ray.kill(self._actors[worker])
        while not self._closed:
            fresh = self._start()
            with self._changed:
                self._actors[worker] = fresh
                self._held[worker] = set()
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
