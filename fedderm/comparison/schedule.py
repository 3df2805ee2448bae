"""Cells in worker processes, as many at a time as cores and memory allow."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fedderm.comparison.job import Job
from fedderm.comparison.memory import room_for_another
from fedderm.comparison.plan import Cell
from fedderm.runtime import Resources, require_gpus

_TRIES = 3
"""Workers in a row that may end before they are ready."""


class CellObserver(Protocol):
    """Someone who is told how cells go on."""

    def cell_started(self, cell: Cell) -> None:
        """Take note that a cell is being run."""

    def cell_round(self, cell: Cell, number: int, rounds: int) -> None:
        """Take note of a finished round."""

    def cell_ended(self, cell: Cell, error: str) -> None:
        """Take note that a cell is done, or of the sentence why it failed."""

    def warn(self, sentence: str) -> None:
        """Take note of something a person should know."""


@dataclass(frozen=True)
class Order:
    """A cell to run, and what its worker is told."""

    cell: Cell
    job: Job


def run_cells(orders: Sequence[Order], resources: Resources, log_file: Path, observer: CellObserver) -> None:
    """Run the cells in worker processes; return when each is done or has failed.

    A cell that raises, and one whose worker dies, fails by itself; the others go on. ``resources.workers``
    says how many at a time; empty: as many as cores and memory hold, where a cell's need is the largest that
    has been seen. Whatever ends this function, the workers are gone. Raises ValueError where none can start.
    """
    if not orders:
        return
    require_gpus(resources)
    with log_file.open("a", encoding="utf-8") as log, _pool(resources, len(orders), log.fileno()) as pool:
        _Schedule(deque(orders), pool, observer, log_file).run()


@dataclass
class _Worker:
    """A worker process, and the order it is at work on."""

    process: "subprocess.Popen[str]"
    ready: bool = False
    order: Order | None = None

    def send(self, order: Order) -> None:
        self.order = order
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # its end is told by its output
            self.process.stdin.write(json.dumps(asdict(order.job)) + "\n")
            self.process.stdin.flush()


@dataclass
class _Pool:
    """The worker processes."""

    size: int
    fixed: bool
    """Whether a person has said how many; memory is then theirs to mind."""
    environment: Mapping[str, str]
    log: int
    events: "queue.Queue[tuple[_Worker, dict[str, Any]]]" = field(default_factory=queue.Queue)
    workers: list[_Worker] = field(default_factory=list)

    def start_one(self) -> None:
        """Start a worker. It is in a session of its own: Ctrl-C in a terminal reaches this process alone."""
        process = subprocess.Popen(
            [sys.executable, "-m", "fedderm.comparison.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=dict(self.environment),
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        worker = _Worker(process)
        self.workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            self.events.put((worker, json.loads(line)))
        self.events.put((worker, {"event": "gone"}))

    def end(self) -> None:
        """End all workers at once: what they have finished is on disk."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.wait()
        self.workers.clear()


@contextmanager
def _pool(resources: Resources, cells: int, log: int) -> Iterator[_Pool]:
    threads = str(resources.cpus_per_site)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        # Workers import what this process can import, tests and a checkout that is not installed included.
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    pool = _Pool(resources.workers_for(cells), resources.workers is not None, environment, log)
    try:
        yield pool
    finally:
        pool.end()


@dataclass
class _Schedule:
    """Hands waiting cells to idle workers and takes in what they tell."""

    waiting: deque[Order]
    pool: _Pool
    observer: CellObserver
    log_file: Path
    peak: int = 0
    """Most bytes that a worker has held once it had finished a round; 0: not known yet."""
    lost: int = 0
    """Workers in a row that ended before they were ready."""

    def run(self) -> None:
        """Hand cells to workers until all have ended, done or failed."""
        while self.waiting or self._busy():
            while len(self.pool.workers) < min(self.pool.size, len(self.waiting) + len(self._busy())):
                self.pool.start_one()
            self._hand_out()
            # With a limit: a signal is noticed between two waits.
            with suppress(queue.Empty):
                self._take(*self.pool.events.get(timeout=0.5))

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self.pool.workers if worker.order is not None]

    def _hand_out(self) -> None:
        for worker in self.pool.workers:
            if worker.ready and worker.order is None and self.waiting and self._fits():
                order = self.waiting.popleft()
                worker.send(order)
                self.observer.cell_started(order.cell)

    def _fits(self) -> bool:
        """Return whether memory holds one more cell; until a round has shown a cell's need, one runs."""
        running = [worker.process.pid for worker in self._busy()]
        if not running or self.pool.fixed:
            return True
        return self.peak > 0 and room_for_another(self.peak, running)

    def _take(self, worker: _Worker, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "gone":
            self._replace(worker)
            return
        if kind == "ready":
            worker.ready, self.lost = True, 0
            return
        if kind in ("round", "done"):
            self.peak = max(self.peak, int(event["peak"]))
        order = worker.order
        if order is None:
            return
        if kind == "round":
            self.observer.cell_round(order.cell, int(event["number"]), int(event["rounds"]))
        elif kind == "warn":
            self.observer.warn(f"{order.cell.id}: {event['sentence']}")
        else:
            worker.order = None
            self.observer.cell_ended(order.cell, str(event.get("sentence", "")))

    def _replace(self, worker: _Worker) -> None:
        """Let a dead worker's cell fail; another worker is started for those that wait."""
        self.pool.workers.remove(worker)
        code = worker.process.wait()
        if not worker.ready:
            self.lost += 1
            if self.lost >= _TRIES:
                raise ValueError(f"no worker process can start ({_ending(code)}); {self.log_file} says why")
        if worker.order is not None:
            self.observer.cell_ended(worker.order.cell, f"its worker process {_ending(code)}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}; workers.log may say why"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    if code == -signal.SIGKILL:
        return f"was ended by {name}; where memory ran out, set resources.workers to fewer cells at a time"
    return f"was ended by {name}"
