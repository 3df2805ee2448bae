"""What a hospital's node remembers between messages: answers of the last day, and runs that were approved.

One JSON file, read and written whole under a lock: several messages may be at work at once, and a person may
approve a run meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from filelock import FileLock
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from fedderm.hospital.policy import Kind
from fedderm.whole_file import write_whole

DAY: Final = timedelta(hours=24)
MOST_WAITING: Final = 50
"""Requests kept that nobody has approved; a server that invents ever new ones pushes out its own."""

SHOWN: Final = 12
"""Digits of a request's digest that people are shown."""

_LOCK_SECONDS: Final = 60.0


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Answer(_Kept):
    """An exchange that was begun: it counts whatever comes of it."""

    time: AwareDatetime
    kind: Kind


class Request(_Kept):
    """A run that asked, and what a person said to it."""

    asked: AwareDatetime
    experiment: str
    words: list[str]
    """What it asks for, a sentence each."""
    approved: AwareDatetime | None = None
    by: str | None = None
    """Who approved it, by the name of the account."""
    pending: bool = True
    """Whether a run was refused since a person last looked at it."""
    free: bool = False
    """Whether a person said yes and no run has begun with it yet."""
    runs: list[str] = []
    """Flower's ids of the runs that began: one for each yes."""
    counted: dict[str, dict[Kind, int]] = {}
    """By run, how often each exchange was begun."""


class Memory(_Kept):
    """All that is remembered."""

    answers: list[Answer] = []
    requests: dict[str, Request] = {}
    """By the digest of the experiment."""

    def begun(self, kinds: tuple[Kind, ...], now: datetime) -> int:
        """Return how many of these exchanges were begun in the 24 hours before ``now``."""
        return sum(one.kind in kinds and one.time > now - DAY for one in self.answers)

    def begin(self, kind: Kind, now: datetime) -> None:
        """Count one more, and forget those of more than a day ago."""
        kept = [one for one in self.answers if one.time > now - DAY]
        self.answers = [*kept, Answer(time=now, kind=kind)]

    def admits(self, digest: str, run: str) -> bool:
        """Return whether a run was approved; an approval that is not taken yet becomes this run's."""
        request = self.requests.get(digest)
        if request is None:
            return False
        if run not in request.runs and request.free:
            request.runs.append(run)
            request.free = False
        return run in request.runs

    def count(self, digest: str, run: str, kind: Kind, most: int) -> bool:
        """Count one more exchange of an approved run; return False, and do not, where it had ``most``."""
        counted = self.requests[digest].counted.setdefault(run, {})
        if counted.get(kind, 0) >= most:
            return False
        counted[kind] = counted.get(kind, 0) + 1
        return True

    def ask(self, digest: str, request: Request) -> None:
        """Note a run that has to wait for a person; the oldest of too many is forgotten."""
        if digest in self.requests:
            self.requests[digest].asked, self.requests[digest].pending = request.asked, True
            return
        self.requests[digest] = request
        unheard = [key for key, one in self.requests.items() if one.approved is None]
        for key in sorted(unheard, key=lambda one: self.requests[one].asked)[:-MOST_WAITING]:
            del self.requests[key]

    def approve(self, digest: str, by: str, now: datetime) -> Request:
        """Return the request after a person's yes, which is for one run."""
        request = self.requests[digest]
        request.approved, request.by, request.pending, request.free = now, by, False, True
        return request

    def withdraw(self, digest: str) -> Request:
        """Return the request after a person took every yes to it back."""
        request = self.requests[digest]
        request.approved, request.by, request.pending, request.free = None, None, False, False
        request.runs, request.counted = [], {}
        return request

    def called(self, name: str) -> str:
        """Return the digest that begins with ``name``; raises ValueError where none or several do."""
        found = [key for key in self.requests if name and key.startswith(name)]
        if len(found) != 1:
            known = ", ".join(key[:SHOWN] for key in self.requests) or "none has asked"
            what = "no request" if not found else "more than one request"
            raise ValueError(f"{what} is called {name}; the requests are: {known}")
        return found[0]


@dataclass(frozen=True)
class MemoryFile:
    """The memory of one hospital on disk."""

    path: Path

    def read(self) -> Memory:
        """Return what is remembered; nothing where there is no file. Raises ValueError for a damaged one."""
        if not self.path.is_file():
            return Memory()
        try:
            return Memory.model_validate_json(self.path.read_bytes())
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(str(part) for part in detail["loc"]) or "the whole"
            raise ValueError(
                f"{self.path}: is damaged ({where}: {detail['msg']}); put it back from a copy, or remove it: "
                "all runs then have to be approved again"
            ) from error

    @contextmanager
    def change(self) -> Iterator[Memory]:
        """Yield what is remembered, and write what is made of it; nothing where the caller raises.

        Raises OSError where the disk refuses.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
            memory = self.read()
            yield memory
            write_whole(self.path, memory.model_dump_json(indent=1) + "\n")


def now() -> datetime:
    """Return this machine's time, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
