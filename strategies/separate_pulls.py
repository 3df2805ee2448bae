"""Replies that are fetched one beside the other, so that none holds up the rest."""

import queue
import threading
import time
from collections.abc import Iterable
from typing import Final

from flwr.app import Message
from flwr.serverapp import Grid

from strategies.grid_view import GridView

_WAIT_S: Final = 0.25
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0


class SeparatePulls(GridView):
    """A grid over a network, whose replies are fetched by a thread each.

    Flower announces a reply before its arrays are there, and whoever pulls it waits for them: for three
    minutes where the node was killed while it sent them, and all other replies, and the round's deadline,
    wait as well. Here each waits alone, and one that nobody asks for any more is given up.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._wanted: frozenset[str] = frozenset()
        self._fetched: set[str] = set()
        self._found: queue.SimpleQueue[tuple[str, Iterable[Message] | Exception]] = queue.SimpleQueue()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come whole, after a short wait for a first one.

        Raises what the grid behind this view raised, such as when its server is gone.
        """
        self._wanted = frozenset(message_ids)
        for key in self._wanted - self._fetched:
            self._fetched.add(key)
            threading.Thread(target=self._fetch, args=(key,), daemon=True).start()
        replies: list[Message] = []
        wait_s = _WAIT_S if self._wanted else 0.0
        while True:
            try:
                key, found = self._found.get(timeout=0.0 if replies else wait_s)
            except queue.Empty:
                self._fetched &= self._wanted
                return replies
            if key not in self._wanted:
                continue  # it was given up at a deadline
            if isinstance(found, Exception):
                raise found
            replies += found

    def _fetch(self, key: str) -> None:
        """Ask for one reply until it is there, or until nobody wants it."""
        pause = _FIRST_PAUSE_S
        while key in self._wanted:
            try:
                found = list(self._grid.pull_messages([key]))
            except Exception as error:  # told to whoever waits for it, whatever it is
                self._found.put((key, error))
                return
            if found:
                self._found.put((key, found))
                return
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
