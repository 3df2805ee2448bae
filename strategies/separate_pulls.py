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
"""Between two questions after one reply, of up to ``_EASY`` that are waited for; longer of more."""
_EASY: Final = 8
_LEFT_ALONE_S: Final = 10.0
"""Without a question from the strategy for so long, nobody waits any more."""


class SeparatePulls(GridView):
    """A grid over a network, whose replies are fetched by a thread each.

    Flower announces a reply before its arrays are there, and whoever pulls it waits for them: for three
    minutes where the node was killed while it sent them, and all other replies, and the round's deadline,
    wait as well. Here each waits alone, and one that nobody asks for any more is given up.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._lock = threading.Lock()
        self._wanted: frozenset[str] = frozenset()
        self._asked = 0.0
        self._fetched: set[str] = set()
        self._found: queue.SimpleQueue[tuple[str, Iterable[Message] | Exception]] = queue.SimpleQueue()
        self._failure: Exception | None = None

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come whole, after a short wait for a first one.

        Raises what the grid behind this view raised, such as when its server is gone; replies that came
        before are returned first.
        """
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        with self._lock:
            self._wanted, self._asked = frozenset(message_ids), time.monotonic()
            new = self._wanted - self._fetched
            self._fetched |= new
        for key in new:
            threading.Thread(target=self._fetch, args=(key,), daemon=True).start()
        replies: list[Message] = []
        wait_s = _WAIT_S if self._wanted else 0.0
        while self._failure is None:
            try:
                key, found = self._found.get(timeout=0.0 if replies else wait_s)
            except queue.Empty:
                return replies
            with self._lock:
                self._fetched.discard(key)
            if key not in self._wanted:
                continue  # it was given up at a deadline
            if isinstance(found, Exception):
                self._failure = found
            else:
                replies += found
        return replies if replies else self.pull_messages(message_ids)

    def _fetch(self, key: str) -> None:
        """Ask for one reply until it is there, or until nobody wants it."""
        pause = _FIRST_PAUSE_S
        while self._goes_on(key):
            try:
                found = list(self._grid.pull_messages([key]))
            except Exception as error:  # told to whoever waits for it, whatever it is
                self._found.put((key, error))
                return
            if found:
                self._found.put((key, found))
                return
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S * max(1.0, len(self._wanted) / _EASY))

    def _goes_on(self, key: str) -> bool:
        """Return whether a reply is still waited for; if not, its thread counts as ended from here on."""
        with self._lock:
            if key in self._wanted and time.monotonic() - self._asked < _LEFT_ALONE_S:
                return True
            self._fetched.discard(key)
            return False
