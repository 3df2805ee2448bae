"""What our grids on one machine share: nodes that are always there, each with a Context that it keeps."""

import itertools
from collections.abc import Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import PARTITION_ID_KEY, SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_FIRST_NODE = 100


class LocalGrid(Grid):
    """Nodes numbered by the place of their site in the config, which they find as ``partition-id``."""

    def __init__(self, nodes: int) -> None:
        # A message notes who makes it; Flower sets this where it starts a run itself.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID
        self._contexts = {
            _FIRST_NODE + position: Context(
                1, _FIRST_NODE + position, {PARTITION_ID_KEY: position}, RecordDict(), {}
            )
            for position in range(nodes)
        }
        self._numbers = itertools.count()

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes: they are always there."""
        return list(self._contexts)

    def named(self, message: Message) -> str:
        """Give ``message`` an id of its own and return it."""
        key = f"message-{next(self._numbers)}"
        message.metadata.__dict__["_message_id"] = key
        return key

    def position_of(self, message: Message) -> int:
        """Return which of the config's sites a message goes to, from 0."""
        return message.metadata.dst_node_id - _FIRST_NODE

    @property
    def run(self) -> Run:
        """There is no Flower run behind this grid; raises NotImplementedError."""
        raise NotImplementedError("sites on this machine belong to no run of Flower's")

    def set_run(self, run: Run) -> None:
        """There is no Flower run behind this grid; raises NotImplementedError."""
        raise NotImplementedError("sites on this machine belong to no run of Flower's")

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


def failure(
    message: Message, error: BaseException, code: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
) -> Message:
    """Return the reply of a site whose app raised ``error``, worded as Flower words it."""
    return Message(Error(code, f"{type(error)}:<'{error}'>"), reply_to=message)
