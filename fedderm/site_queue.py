"""Which worker does which site's work next."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

Job = TypeVar("Job")

WINDOW: Final = 8
"""A site is passed over at most so often for one that takes longer: early replies wait in memory for it."""
_LONGER: Final = 1.25


@dataclass(eq=False)
class Waiting(Generic[Job]):
    """A job that waits: of a site, and of a kind of which each takes the site about as long."""

    job: Job
    site: int
    kind: str
    passed_over: int = field(default=0, init=False)


class SiteQueue(Generic[Job]):
    """Jobs by the worker that has their site open: its table, pixels and features.

    A worker without work of its own takes that of sites without a home, then another's. Of the first few jobs
    the one that took longest last time begins, so that no worker is left alone with it at the end; jobs that
    take about as long keep their order, in which their results are wanted.
    """

    def __init__(self, workers: Iterable[int]) -> None:
        self._homeless: deque[Waiting[Job]] = deque()
        self._own: dict[int, deque[Waiting[Job]]] = {worker: deque() for worker in workers}
        self._homes: dict[int, int] = {}
        self._seconds: dict[tuple[int, str], float] = {}

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._own)

    def put(self, job: Job, site: int, kind: str) -> None:
        """Add a job behind the others."""
        self._own.get(self._homes.get(site, -1), self._homeless).append(Waiting(job, site, kind))

    def put_back(self, job: Waiting[Job]) -> None:
        """Add a job before the others that was taken and not begun."""
        self._own.get(self._homes.get(job.site, -1), self._homeless).appendleft(job)

    def take(self, worker: int, busy_with: Sequence[int] = ()) -> Waiting[Job] | None:
        """Return the worker's next job, whose site is at home with it from now on; None where none waits.

        ``busy_with``: sites whose jobs the worker has already. Then it takes one ahead only of its own sites
        or of those without a home, of another site than these, and while every worker would still find one.
        """
        own = self._own[worker] or self._homeless
        if busy_with:
            queue = own if sum(map(len, (self._homeless, *self._own.values()))) > self.workers else None
        else:
            queue = own or max(self._own.values(), key=len)
        if not queue:
            return None
        first, *rest = list(queue)[:WINDOW]
        longest = max((first, *rest), key=self._usual)
        ahead = first.passed_over < WINDOW and self._usual(longest) > _LONGER * self._usual(first)
        chosen = longest if ahead else first
        if chosen.site in busy_with:
            return None
        if ahead:
            first.passed_over += 1
        queue.remove(chosen)
        self._homes[chosen.site] = worker
        return chosen

    def took(self, done: Waiting[Job], seconds: float) -> None:
        """Note how long a job took."""
        self._seconds[done.site, done.kind] = seconds

    def retire(self, worker: int) -> None:
        """Leave a worker's sites to the others."""
        self._homeless.extend(self._own.pop(worker))

    def _usual(self, waiting: Waiting[Job]) -> float:
        return self._seconds.get((waiting.site, waiting.kind), 0.0)
