"""One system in a process of its own: ``python -m benchmarks.systems.main SYSTEM FOLDER ROUNDS [COUNT...]``.

Reads ``experiment.json`` in the folder and writes ``SYSTEM.json`` and ``SYSTEM.safetensors``. Without counts
fedderm does a run, and the others train all sites; with counts each trains so many of them in turn.
"""

import sys
from pathlib import Path

from benchmarks.systems.measured import Measured
from fedderm.config import from_json
from fedderm.settings import Experiment


def run(system: str, experiment: Experiment, rounds: int, counts: list[int]) -> Measured:
    """Return what the system did in the first ``rounds`` rounds; imports only what it needs."""
    everyone = counts or [len(experiment.sites)]
    if system == "limit":
        from benchmarks.systems import limit

        return limit.run(experiment, rounds, everyone)
    if system == "Flower":
        from benchmarks.systems import plain_flower

        return plain_flower.run(experiment, rounds, everyone)
    from benchmarks.systems import ours

    return ours.rounds_alone(experiment, rounds, counts) if counts else ours.run(experiment, rounds)


def main() -> None:
    """Run one system."""
    system, folder, rounds, *counts = sys.argv[1:]
    experiment = from_json((Path(folder) / "experiment.json").read_text(encoding="utf-8"))
    measured = run(system, experiment, int(rounds), [int(one) for one in counts])
    measured.save(Path(folder) / f"{system}.json")


if __name__ == "__main__":
    main()
