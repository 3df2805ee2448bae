"""Asking sites and getting their answers as they come, within a deadline and in a fixed order.

Flower's ``Grid.send_and_receive`` collects every reply before it returns one, and returns them in order of
arrival. Here a reply is handed on as soon as its turn comes and nothing holds on to it afterwards.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from strategies.errors import Interrupted, QuorumLost

_LOST_WORKER = frozenset({ErrorCode.UNKNOWN, ErrorCode.CLIENT_APP_CRASHED})
"""What Flower reports when the process died under a message; an exception of the app has its own code."""

_WRAPPED = re.compile(r"<class '[^']*'>:<'(?P<said>.*)'>")
_REPEATED = re.compile(r"^\s*(Exception \w+ occurred\. Message: )+")


@dataclass(frozen=True)
class Member:
    """One site as the server knows it: the Flower node, the site's name, its registered training images."""

    node_id: int
    name: str
    num_examples: int
    effective: float | None = None
    """The effective number of its training images, 4 P N / (P + N), where sites are weighed by it."""


@dataclass
class Reply:
    """A site's answer: a message with content, or why there is none; seconds since it was asked."""

    member: Member
    message: Message | None
    reason: str | None
    seconds: float


@dataclass(frozen=True)
class Event:
    """Something to show a person: a site was asked, asked again, answered, or failed."""

    kind: Literal["sent", "resent", "arrived", "failed"]
    member: Member
    seconds: float
    reason: str | None = None


def exchange(
    grid: Grid,
    requests: Sequence[tuple[Member, RecordDict]],
    message_type: str,
    deadline_s: float,
    on_event: Callable[[Event], None] | None = None,
    *,
    should_stop: Callable[[], bool] | None = None,
    retries: int = 1,
    group: str = "",
) -> Iterator[Reply]:
    """Yield one reply for each request, in the order of ``requests``, whatever the order of arrival.

    All messages are sent before the first reply is awaited. A reply that comes early waits its turn; once
    yielded it is released. Errors and silence past ``deadline_s`` seconds (for all requests together) become
    replies with a reason that names the site. A site whose worker process died is asked again, at most
    ``retries`` times, within the same deadline; an exception raised by the site's own code is final.
    ``should_stop`` is asked whenever the grid is; then Interrupted is raised.
    """
    post = _Post(grid, message_type, deadline_s, on_event or _silent, retries, group)
    for member, content in requests:
        post.send(member, content)
    for position in range(len(requests)):
        while not post.has(position):
            if should_stop is not None and should_stop():
                raise Interrupted("stopped while waiting for sites; the run can be resumed")
            post.collect()
        yield post.take(position)


def wait_for_nodes(
    grid: Grid,
    count: int,
    deadline_s: float,
    should_stop: Callable[[], bool] | None = None,
    wanted: Mapping[int, str] | None = None,
) -> list[int]:
    """Return the ids of the connected nodes, sorted, as soon as there are ``count`` of them.

    ``wanted``: node id to its site's name, where it is known whose nodes are wanted; others do not count.
    Raises QuorumLost where they have not come within ``deadline_s`` seconds, Interrupted where
    ``should_stop`` says so.
    """
    start = time.monotonic()
    while len(ids := _connected(grid, wanted)) < count:
        if should_stop is not None and should_stop():
            raise Interrupted("stopped while waiting for sites to connect")
        if time.monotonic() - start >= deadline_s:
            absent = sorted(set((wanted or {}).values()) - {(wanted or {}).get(one) for one in ids})
            who = f" ({', '.join(absent)} did not)" if absent else ""
            raise QuorumLost(
                f"{len(ids)} of {count} sites connected within {deadline_s:g} s{who}; "
                "start the missing ones, or take them out of the config"
            )
        time.sleep(0.02 if wanted is None else 0.5)  # hospitals take minutes, over a network
    return ids


def _connected(grid: Grid, wanted: Mapping[int, str] | None) -> list[int]:
    return sorted(one for one in grid.get_node_ids() if wanted is None or one in wanted)


class _Post:
    """The messages under way, by their position in the list of requests."""

    def __init__(
        self,
        grid: Grid,
        message_type: str,
        deadline_s: float,
        on_event: Callable[[Event], None],
        retries: int,
        group: str,
    ) -> None:
        self._grid = grid
        self._message_type = message_type
        self._on_event = on_event
        self._group = group
        self._retries = retries
        self._deadline_s = deadline_s
        self._start = time.monotonic()
        self._requests: list[tuple[Member, RecordDict | None]] = []
        self._attempts: list[int] = []
        self._waiting: dict[str, int] = {}
        self._arrived: dict[int, Reply] = {}

    def send(self, member: Member, content: RecordDict) -> None:
        """Ask one site. Its position is that of this call."""
        self._requests.append((member, content))
        self._attempts.append(0)
        self._push(len(self._requests) - 1, "sent")

    def has(self, position: int) -> bool:
        return position in self._arrived

    def take(self, position: int) -> Reply:
        """Return the reply and forget it, so that only the caller decides how long it lives."""
        return self._arrived.pop(position)

    def collect(self) -> None:
        """Take in what has arrived; where nothing has, wait a little or give up on the silent ones."""
        if self._elapsed() >= self._deadline_s:
            for position in list(self._waiting.values()):
                self._fail(position, f"no answer within {self._deadline_s:g} s")
            self._waiting.clear()
            return
        asked = time.monotonic()
        messages = list(self._grid.pull_messages(list(self._waiting)))
        if not messages and self._waiting:  # a grid that waited for them itself has waited enough
            time.sleep(max(0.0, self._pause() - (time.monotonic() - asked)))
        while messages:
            self._receive(messages.pop())

    def _receive(self, message: Message) -> None:
        position = self._waiting.pop(message.metadata.reply_to_message_id, None)
        if position is None:
            return
        if not message.has_error():
            self._keep(position, message, None, "arrived")
        elif message.error.code in _LOST_WORKER and self._attempts[position] <= self._retries:
            self._push(position, "resent")
        else:
            self._fail(position, _one_line(message.error.reason))

    def _push(self, position: int, kind: Literal["sent", "resent"]) -> None:
        member, content = self._requests[position]
        if content is None:
            raise RuntimeError(f"site {member.name} was answered and is asked again")
        self._attempts[position] += 1
        # The lifetime ends with the deadline: Flower then drops the message and refuses a late reply, so that
        # neither stays in the server's memory.
        ttl = max(self._deadline_s - self._elapsed(), 0.001)
        message = Message(content, member.node_id, self._message_type, ttl=ttl, group_id=self._group)
        # One at a time: the in-memory grid leaves a refused message out of its answer, so that a list of
        # ids would no longer line up with the list of sites.
        ids = [i for i in self._grid.push_messages([message]) if i]
        if not ids:
            self._fail(position, "the message could not be sent (the node is gone)")
            return
        self._waiting[ids[0]] = position
        self._on_event(Event(kind, member, self._elapsed()))

    def _keep(
        self, position: int, message: Message | None, reason: str | None, kind: Literal["arrived", "failed"]
    ) -> None:
        member = self._requests[position][0]
        self._requests[position] = (member, None)
        self._arrived[position] = Reply(member, message, reason, self._elapsed())
        self._on_event(Event(kind, member, self._elapsed(), reason))

    def _fail(self, position: int, reason: str) -> None:
        name = self._requests[position][0].name
        said = reason.removeprefix(f"site {name}: ")
        self._keep(position, None, f"site {name}: {said}", "failed")

    def _elapsed(self) -> float:
        return time.monotonic() - self._start

    def _pause(self) -> float:
        """Return seconds to sleep: 5 ms at first, later 2 % of the time waited, at most a quarter second.

        A short round is not held up, and a long one over a network is not polled two hundred times a second.
        """
        elapsed = self._elapsed()
        return min(max(0.005, 0.02 * elapsed), 0.25, max(self._deadline_s - elapsed, 0.001))


def _one_line(reason: str | None, longest: int = 300) -> str:
    text = " ".join((reason or "no reason given").split())
    # Flower: <class '...'>:<'Exception ClientAppException occurred. Message: what the site said'>, with Ray
    # twice over.
    if match := _WRAPPED.fullmatch(text):
        text = match["said"].strip()
    text = _REPEATED.sub("", text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _silent(event: Event) -> None:
    del event
