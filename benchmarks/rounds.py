"""Steady seconds of a round of training: fedderm beside the limit and beside plain Flower.

The systems take turns, each in fresh processes, with the same pixels, seeds, threads and number of workers.
fedderm's run ends where the first round begins that is not measured: no evaluation, no report. Beside the
ratio to the limit stands what each system's rounds take beyond their own busiest worker's training, which a
machine whose speed changes between the systems' turns leaves alone.
Timed is a whole round, from its begin to the begin of the next: messages, local training, mean, and in
fedderm also the check of every reply and the round's model, metrics and state on disk. The first round of a
system is dropped, because lazy things happen in it; the rest count by their median. Sites are not evaluated
between rounds (``evaluation.every``). The limit and plain Flower: limit.py and plain_flower.py in
benchmarks/systems.

First of all the final weights must be equal, to 1e-5: they are, where all systems did the same work. How far
the weights moved is printed beside: hundreds of times as far.
EfficientNet multiplies rounding errors, so its difference is told and not judged.

    python -m benchmarks.rounds [16 64 lite0]
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.claims import Claim, parser, report, told
from benchmarks.systems import data
from benchmarks.systems.measured import Measured, largest_difference, median_seconds, require_equal
from benchmarks.systems.running import FLOWER, LIMIT, OURS, SYSTEMS, Bench
from fedderm.serving import first_model
from fedderm.settings import Experiment

TOLERANCE: Final = 1e-5
_RATE: Final = 1e-2


@dataclass(frozen=True)
class Job:
    """What is timed."""

    what: str
    sites: int
    images: int
    rounds: int
    """That every system carries out; the schedule has one more, where fedderm's run ends."""
    target: float
    image_size: int = 32
    tolerance: float = TOLERANCE
    model: str = "test_resnet"
    pretrained: str = "none"

    def experiment(self, folder: Path, workers: int | None) -> Experiment:
        """Return the experiment over new sites in ``folder``."""
        changes: dict[str, Any] = {"model": {"backbone": self.model, "pretrained": self.pretrained}}
        sizes = [self.images] * self.sites
        # AdamW divides by the size of a gradient, and the last bits of a small one become a step's first.
        changes["training"] = {"optimizer": "sgd", "learning_rate": _RATE}
        return data.experiment(folder, sizes, self.image_size, workers, rounds=self.rounds + 1, **changes)


JOBS: Final = {
    "16": Job("a round, small net, 16 sites of 128 images", 16, 128, 3, 1.10),
    "64": Job("a round, small net, 64 sites of 128 images", 64, 128, 3, 1.05),
    "lite0": Job(
        "a round, EfficientNet-Lite0, 112 px, six sites of 64 images",
        *(6, 64, 3, 1.03),
        image_size=112,
        tolerance=float("inf"),
        model="tf_efficientnet_lite0",
        pretrained="package",
    ),
}


def measure(job: Job, repeats: int, workers: int | None) -> Claim:
    """Return the claim of one job; raises Unequal where the systems' weights differ."""
    print(f"{job.what}:", flush=True)
    found: dict[str, list[Measured]] = {system: [] for system in SYSTEMS}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        bench = Bench(job.experiment(Path(name), workers), Path(name))
        for repeat in range(repeats):
            turn = repeat % len(SYSTEMS)
            for system in (*SYSTEMS[turn:], *SYSTEMS[:turn]):
                found[system].append(bench.run(system, rounds=job.rounds).measured)
            models = {system: ones[-1].arrays for system, ones in found.items()}
            apart = require_equal(models, LIMIT, job.tolerance)
            moved = largest_difference(models[LIMIT], first_model(bench.experiment).arrays)
            differ = ", ".join(f"{who} {one:.1g}" for who, one in apart.items())
            print(f"  final weights differ from the limit's by at most: {differ}; they moved by {moved:.1g}")
    return claim(job, found)


def claim(job: Job, found: dict[str, list[Measured]]) -> Claim:
    """Return the claim of one job, and print each system's rounds."""
    seconds, beyond = {}, []
    for system, ones in found.items():
        rounds = [one for measured in ones for one in measured.steady()]
        seconds[system] = median_seconds(rounds)
        single = [one.seconds for one in rounds]
        training = median(one.training for one in rounds)
        print(
            f"  {system:8} {seconds[system]:7.3f} s a round (median of {len(rounds)}; {min(single):.3f} to "
            f"{max(single):.3f}), of which the busiest worker trains {training:.3f} s"
        )
        beyond.append(f"{system} {100 * (median(one.seconds / one.training for one in rounds) - 1):.1f} %")
    return Claim(
        what=job.what,
        unit="s",
        ours=seconds[OURS],
        limit=seconds[LIMIT],
        flower=seconds[FLOWER],
        target=job.target,
        judged="ratio",
        note=f"a round beyond what its own busiest worker trained: {', '.join(beyond)}",
    )


def main() -> None:
    """Print each job's rounds and the table of ratios."""
    arguments = parser(__doc__)
    arguments.add_argument("jobs", nargs="*", help=f"some of {', '.join(JOBS)} (default: all)")
    arguments.add_argument("--repeats", type=int, default=3)
    asked = arguments.parse_args()
    unknown = sorted(set(asked.jobs) - set(JOBS))
    if unknown:
        arguments.error(f"there is no job {unknown[0]}; choose from {', '.join(JOBS)}")
    chosen = [JOBS[name] for name in asked.jobs or JOBS]
    if asked.quick:
        chosen = [replace(job, sites=min(job.sites, 4), images=16, rounds=3) for job in chosen]
    repeats = 1 if asked.quick else asked.repeats
    report([measure(job, repeats, asked.workers) for job in chosen], asked)


if __name__ == "__main__":
    told(main)
