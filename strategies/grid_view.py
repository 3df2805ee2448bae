"""A grid seen through another: what a view does not change goes to the grid behind it."""

import time
from collections.abc import Iterable
from typing import Final

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

_PAUSE_S: Final = 0.05


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
        """Send and receive as this view does, until all replies are there or ``timeout`` seconds are over."""
        waiting = set(self.push_messages(messages))
        begin, replies = time.monotonic(), list[Message]()
        while waiting and (timeout is None or time.monotonic() - begin < timeout):
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            if waiting:
                time.sleep(_PAUSE_S)
        return replies
