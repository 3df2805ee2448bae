"""A grid seen through another: what a view does not change goes to the grid behind it."""

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class GridView(Grid):
    """All of a grid, passed on as it is."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of the grid behind this view."""
        return self._grid.get_node_ids()

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
