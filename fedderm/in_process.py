"""A federation in this very process: the real ClientApp is called when its reply is pulled.

For many small runs, such as the cells of a comparison: no Ray, no network, no second copy of a model, and
sites keep their tables and pixels open from one run to the next. The sites' answers, and so the weights, are
those of a simulation with Ray, bit for bit.
"""

from collections.abc import Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import PARTITION_ID_KEY, SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_FIRST_NODE = 100


class InProcessGrid(Grid):
    """Nodes that answer one at a time, in the order asked, each with a Context of its own that it keeps."""

    def __init__(self, app: ClientApp, nodes: int) -> None:
        # A message notes who makes it; Flower sets this where it starts a run itself.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID
        self._app = app
        self._contexts = {
            _FIRST_NODE + position: Context(
                1, _FIRST_NODE + position, {PARTITION_ID_KEY: position}, RecordDict(), {}
            )
            for position in range(nodes)
        }
        self._waiting: dict[str, Message] = {}
        self._sent = 0

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes: they are always there."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep the messages until their replies are pulled; return their ids."""
        ids = []
        for message in messages:
            key = f"message-{self._sent}"
            self._sent += 1
            message.metadata.__dict__["_message_id"] = key
            self._waiting[key] = message
            ids.append(key)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the reply of one of the waiting sites, which works for it now; none where none waits."""
        waiting = [key for key in message_ids if key in self._waiting]
        if not waiting:
            return []
        chosen = min(waiting, key=lambda key: self.turn(self.position_of(self._waiting[key])))
        reply = self.answer(self._waiting.pop(chosen))
        return [] if reply is None else [reply]

    def turn(self, position: int) -> int:
        """Return when the site at ``position`` has its turn among those that wait: in the config's order."""
        return position

    def answer(self, message: Message) -> Message | None:
        """Return a site's reply; its exception becomes an error, as it would in another process."""
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            return failure(message, error)

    def position_of(self, message: Message) -> int:
        """Return which of the config's sites a message goes to, from 0."""
        return message.metadata.dst_node_id - _FIRST_NODE

    @property
    def run(self) -> Run:
        """There is no Flower run behind this grid; raises NotImplementedError."""
        raise NotImplementedError("sites in this process belong to no run of Flower's")

    def set_run(self, run: Run) -> None:
        """There is no Flower run behind this grid; raises NotImplementedError."""
        raise NotImplementedError("sites in this process belong to no run of Flower's")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to one of the nodes."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return all replies, in the order asked; nothing is waited for, so ``timeout`` has no meaning."""
        del timeout
        waiting = list(self.push_messages(messages))
        return [reply for key in waiting for reply in self.pull_messages([key])]


def failure(message: Message, error: Exception) -> Message:
    """Return the reply of a site whose app raised ``error``, worded as Flower words it."""
    return Message(
        Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error)}:<'{error}'>"), reply_to=message
    )
