"""What a strategy sees of the federation: the nodes chosen for this round and no other."""

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

_PATIENCE = 4
"""Flower's sampling asks twice; where it wants more nodes than there are, it asks again every second."""


class ChosenNodes(Grid):
    """A grid that lists only the chosen nodes.

    Flower's strategies draw from all connected nodes with Python's global generator and wait without end for
    a minimum of them. Shown exactly the chosen ones, they take them all at once, and a held-out site cannot
    be drawn.
    """

    def __init__(self, grid: Grid, node_ids: Iterable[int]) -> None:
        self._grid = grid
        self._node_ids = list(node_ids)
        self._asked = 0

    def get_node_ids(self) -> Iterable[int]:
        """Return the chosen nodes. Raises ValueError once the strategy is seen to wait for more."""
        self._asked += 1
        if self._asked > _PATIENCE:
            raise ValueError(
                f"the strategy waits for more than the {len(self._node_ids)} sites of this round; "
                "set its min_train_nodes and min_available_nodes to 1"
            )
        return list(self._node_ids)

    def set_run(self, run: Run) -> None:
        """Set the run of the grid behind this view."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """Return the run of the grid behind this view."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message, as the grid behind this view makes it."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send through the grid behind this view."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Receive through the grid behind this view."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and receive through the grid behind this view."""
        return self._grid.send_and_receive(messages, timeout=timeout)
