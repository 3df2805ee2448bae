"""Starting one system after the other, each in a fresh process, and collecting what they measured."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.systems.measured import Measured
from benchmarks.systems.proportional import MARK, Sample, Watch, end_marked
from benchmarks.systems.quiet import Quiet
from fedderm.config import to_json
from fedderm.preparation import load_sites, open_caches
from fedderm.settings import Experiment

LIMIT: Final = "limit"
OURS: Final = "fedderm"
FLOWER: Final = "Flower"
SYSTEMS: Final = (LIMIT, OURS, FLOWER)

_ROOT: Final = Path(__file__).resolve().parents[2]


class Failed(RuntimeError):  # noqa: N818 - says what happened
    """A measured system did not come to its end."""


@dataclass(frozen=True)
class Result:
    """What a system measured of itself, and its memory where that was asked for."""

    measured: Measured
    memory: Sequence[Sample] = ()


@dataclass(frozen=True)
class Ended:
    """A process that came to its end: seconds from its start to its exit, and its memory if asked for."""

    seconds: float
    memory: Sequence[Sample]


class Bench:
    """One experiment that several systems carry out, with its sites' pixel caches built."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        """Write the experiment into ``folder`` and decode its sites' images, so that no system has to."""
        self.experiment, self._folder = experiment, folder
        (folder / "experiment.json").write_text(to_json(experiment), encoding="utf-8")
        open_caches(experiment, load_sites(experiment, Quiet()), Quiet())

    def run(
        self,
        system: str,
        counts: Sequence[int] = (),
        interval: float | None = None,
        rounds: int | None = None,
    ) -> Result:
        """Return what ``system`` measured; with ``interval``, its memory too, every so many seconds.

        ``counts``: rounds over so many of the sites in turn, in place of a whole run. ``rounds``: only the
        first so many of the experiment's; of a whole run fedderm measures all but the last one, which an
        evaluation follows. Raises Failed with the end of what the system said.
        """
        print(f"  {system} ...", file=sys.stderr, flush=True)
        numbers = (self.experiment.rounds if rounds is None else rounds, *counts)
        command = ["-m", "benchmarks.systems.main", system, str(self._folder), *map(str, numbers)]
        ended = marked_process(command, self._folder / f"{system}.log", interval)
        return Result(Measured.load(self._folder / f"{system}.json"), ended.memory)


def marked_process(
    arguments: Sequence[str], log: Path, interval: float | None = None, cwd: Path = _ROOT, **variables: str
) -> Ended:
    """Run Python with ``arguments`` to its end; its memory is sampled every ``interval`` seconds, if given.

    Whatever it leaves running is ended. Raises Failed where its exit code is not 0.
    """
    mark = secrets.token_hex(8)
    environment = {**os.environ, MARK: mark, "PYTHONPATH": str(_ROOT), **variables}
    samples: Sequence[Sample] = ()
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=cwd, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            if interval is None:
                process.wait()
            else:
                with Watch(mark, process.pid, interval) as watch:
                    process.wait()
                samples = watch.samples
            seconds = time.monotonic() - start
        finally:
            end_marked(mark)
    if process.returncode:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise Failed(f"{' '.join(arguments)} ended with exit code {process.returncode}:\n{end}")
    return Ended(seconds, samples)
