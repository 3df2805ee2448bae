"""Proportional memory of a group of processes over time, shared memory counted once.

A page that n processes map counts 1/n in each (PSS in ``/proc/PID/smaps_rollup``), so that the sum over the
group is what the group takes. What lies in /dev/shm and nobody maps at the moment is in no process's PSS; the
growth of /dev/shm beyond what is mapped is added.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

MARK: Final = "FEDDERM_BENCHMARK"
"""A variable that all processes of one measured system inherit."""
_SHARED: Final = Path("/dev/shm")
_SEARCH: Final = 0.5
"""Seconds between two searches for the group's processes, which cost more than a look at their memory."""


class Held(NamedTuple):
    """What one process holds, in bytes."""

    proportional: int
    shared: int
    """Of it, shared memory (files in memory)."""


def parse_rollup(text: str) -> Held:
    """Return what ``smaps_rollup`` says; raises ValueError where it lacks a line."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("Pss", "Pss_Shmem"):
            number, unit = value.split()
            if unit != "kB":
                raise ValueError(f"smaps_rollup counts {name} in {unit}, not in kB")
            found[name] = 1024 * int(number)
    if len(found) < 2:
        raise ValueError("smaps_rollup holds no Pss and Pss_Shmem; memory is measured on Linux 5.0 or newer")
    return Held(found["Pss"], found["Pss_Shmem"])


@dataclass(frozen=True)
class Sample:
    """One look: bytes of the server's process, and of all processes of the group together."""

    time: float
    server: int
    total: int


def combined(
    when: float, server: int, held: dict[int, Held], in_shared_memory: int, before: int = 0
) -> Sample:
    """Return the sample of processes by id; ``in_shared_memory``: bytes in /dev/shm, and ``before`` it all
    began."""
    mapped = sum(one.shared for one in held.values())
    unmapped = max(0, in_shared_memory - before - mapped)
    total = sum(one.proportional for one in held.values()) + unmapped
    return Sample(when, held[server].proportional if server in held else 0, total)


@dataclass(frozen=True)
class Peak:
    """The most that was seen, in bytes."""

    server: int
    total: int
    samples: int


def peak(samples: Iterable[Sample], since: float = float("-inf"), until: float = float("inf")) -> Peak:
    """Return the peak of the samples between two moments; raises ValueError where there is none."""
    chosen = [one for one in samples if since <= one.time <= until]
    if not chosen:
        raise ValueError("there is no sample of memory in that time; make it longer, or the interval shorter")
    return Peak(max(one.server for one in chosen), max(one.total for one in chosen), len(chosen))


class Watch:
    """Looks at the memory of a group of processes every so often, in a thread, while it is entered."""

    def __init__(self, mark: str, server: int, interval: float) -> None:
        self.samples: list[Sample] = []
        self._mark, self._server, self._interval = mark, server, interval
        self._before = in_shared_memory()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        pids, searched = [self._server], float("-inf")
        while not self._over.wait(self._interval):
            if time.monotonic() - searched >= _SEARCH:
                pids, searched = marked(self._mark), time.monotonic()
            held = {}
            for pid in pids:
                with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
                    held[pid] = parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"))
            if held:
                self.samples.append(
                    combined(time.monotonic(), self._server, held, in_shared_memory(), self._before)
                )


def in_shared_memory() -> int:
    """Return the bytes that lie in /dev/shm."""
    try:
        told = os.statvfs(_SHARED)
    except OSError:
        return 0
    return (told.f_blocks - told.f_bfree) * told.f_frsize


def marked(mark: str) -> list[int]:
    """Return the processes that inherited ``MARK=mark``, this one left out."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def end_marked(mark: str, grace: float = 10.0) -> Sequence[int]:
    """End the processes of a group that are still there, those that do not go by force; return their ids."""
    left = marked(mark)
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        for pid in marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + wait
        while marked(mark) and time.monotonic() < until:
            time.sleep(0.1)
    return left
