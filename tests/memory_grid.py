"""A grid in memory whose sites are real Flower ClientApps in threads; no Ray, no network.

What a site does is a plain function, so that a test can make it slow, wrong, hostile or silent.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from strategies.exchange import Member

# A Message needs to know who makes it; Flower sets this where it starts a run.
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID

Answer = Callable[[Message], RecordDict]
"""A site's behaviour; it may sleep or raise."""


class WorkerDiedError(Exception):
    """Raised by an answer to stand for a process that was killed: Flower reports it with an unknown code."""


class SilenceError(Exception):
    """Raised by an answer that never comes."""


class MemoryGrid(Grid):
    """Nodes by id, each with an answer; replies are kept until they are pulled, then forgotten."""

    def __init__(self, answers: Mapping[int, Answer]) -> None:
        self._answers = dict(answers)
        self._lock = threading.Lock()
        self._replies: dict[str, Message] = {}
        self.sent: list[tuple[int, str]] = []
        """(node id, message type) of everything pushed."""

    def get_node_ids(self) -> Iterable[int]:
        return list(self._answers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            self.sent.append((node, message.metadata.message_type))
            if node in self._answers:
                threading.Thread(target=self._answer, args=(node, message), daemon=True).start()
                ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        with self._lock:
            return [self._replies.pop(key) for key in list(message_ids) if key in self._replies]

    def _answer(self, node: int, message: Message) -> None:
        app = ClientApp()
        for register in (app.train, app.query, app.evaluate):
            register()(lambda m, _: Message(echoed(self._answers[node](m), m), reply_to=m))
        context = Context(1, node, UserConfig(), RecordDict(), UserConfig())
        try:
            reply = app(message, context)
        except SilenceError:
            return
        except Exception as error:
            known = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            code = ErrorCode.UNKNOWN if isinstance(error, WorkerDiedError) else known
            reply = Message(Error(code, f"{type(error)}:<'{error}'>"), reply_to=message)
        with self._lock:
            self._replies[message.metadata.message_id] = reply

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *_: object, **__: object) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *_: object, **__: object) -> Iterable[Message]:
        raise NotImplementedError


def echoed(content: RecordDict, message: Message) -> RecordDict:
    """Return a reply to ``train`` with the round that was asked, unless it says another, as sites do."""
    asked, metrics = message.content.get("config"), content.get("metrics")
    if isinstance(asked, ConfigRecord) and isinstance(metrics, MetricRecord) and "server-round" in asked:
        metrics.setdefault("server-round", int(str(asked["server-round"])))
    return content


def record(**arrays: NDArray[np.generic]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(values)) for name, values in arrays.items()})


def values(arrays: ArrayRecord) -> dict[str, NDArray[np.generic]]:
    return {name: array.numpy() for name, array in arrays.items()}


def f32(*numbers: float) -> NDArray[np.float32]:
    return np.asarray(numbers, dtype=np.float32)


def reply(arrays: ArrayRecord, examples: float, loss: float = 0.5) -> RecordDict:
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": examples, "loss": loss})})


def answering(arrays: ArrayRecord, examples: float, after_s: float = 0.0) -> Answer:
    """Return a site that sends these arrays after some seconds, whatever it is sent."""

    def answer(message: Message) -> RecordDict:
        del message
        time.sleep(after_s)
        return reply(ArrayRecord(dict(arrays)), examples)

    return answer


def raising(error: Exception) -> Answer:
    def answer(message: Message) -> RecordDict:
        del message
        raise error

    return answer


def members(*examples: int) -> list[Member]:
    """Return one member for each number of training images: nodes 101, 102, ... named a, b, ..."""
    return [Member(101 + i, "abcdefghijklmnop"[i], n) for i, n in enumerate(examples)]
