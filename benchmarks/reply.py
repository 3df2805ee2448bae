"""Seconds of one ViT-B/16 reply (86 M parameters, 343 MB), from trained in the worker to added at the server.

The clock starts in the worker's process when ``train_locally`` returns, and stops in the server's when the
model is part of the mean: copying the state, packing, the way to the server, every check, and the addition.
The times come from ``time.monotonic``, one clock for all processes of a machine. One worker trains one
two-image step a site on 32 pixels, so that no reply waits for another. fedderm's rounds are over one site
(its reply opens the mean) and over three (those after the first are added to it, in site order: one that was
trained before its turn waits for the others' training, and does not count); the slower of the two medians
counts. Plain Flower's and the limit's are over one site, until the mean of that one is ready. Beside it
stands what the server's passes over such a reply take by themselves.

    python -m benchmarks.reply
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from benchmarks.claims import Claim, parser, report, told
from benchmarks.systems import data
from benchmarks.systems.measured import Round
from benchmarks.systems.running import FLOWER, LIMIT, OURS, Bench
from fedderm.weights import Arrays
from strategies.guard import is_finite
from strategies.running_mean import RunningMean

TARGET: Final = 0.15
SITES: Final = 3
PASSES: Final = 7


def measure(backbone: str, rounds: int) -> Claim:
    """Return the claim about a reply with this backbone's weights."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        experiment = data.experiment(
            Path(name),
            [2] * SITES,
            32,
            1,
            rounds=rounds,
            model={"backbone": backbone},
            training={"batch_size": 2, "local_steps": 1},
        )
        bench = Bench(experiment, Path(name))
        ours = bench.run(OURS, [1, SITES]).measured
        others = {system: bench.run(system, [1]).measured for system in (LIMIT, FLOWER)}
    parameters = sum(array.size for array in ours.arrays.values())
    print(f"{backbone}: {parameters / 1e6:.1f} M parameters; seconds from trained to added, median (range)")
    first = [one for done in ours.steady(1) for one in done.replies()]
    later = [one for done in ours.steady(SITES) for one in in_turn(done)]
    seconds = {"fedderm, the mean's first": first, "fedderm, a later one": later}
    alone = {
        system: [one for done in measured.steady() for one in done.replies()]
        for system, measured in others.items()
    }
    for title, found in {**seconds, **alone}.items():
        if not found:
            print(f"  {title:26} none: each waited for its turn")
            continue
        print(f"  {title:26} {median(found):.3f} ({min(found):.3f} to {max(found):.3f}, n = {len(found)})")
    print(
        "  of it at the server, by itself: "
        + ", ".join(f"{what} {one:.3f}" for what, one in parts(ours.arrays))
    )
    return Claim(
        what=f"one {parameters / 1e6:.0f} M-parameter reply, trained to added",
        unit="s",
        ours=max(median(one) for one in (first, later) if one),
        limit=median(alone[LIMIT]),
        flower=median(alone[FLOWER]),
        target=TARGET,
    )


def parts(arrays: Arrays) -> list[tuple[str, float]]:
    """Return the median seconds of each pass over a reply, in turn, while no other process works."""
    model = {name: array for name, array in arrays.items() if np.issubdtype(array.dtype, np.floating)}
    seconds: dict[str, list[float]] = {"check": [], "opening the mean": [], "adding": []}
    for _ in range(PASSES):
        mean = RunningMean()
        work: dict[str, Callable[[], object]] = {
            "check": lambda: all(map(is_finite, model.values())),
            "opening the mean": partial(mean.add, model, 1.0),
            "adding": partial(mean.add, model, 1.0),
        }
        for what, carry_out in work.items():
            begin = time.monotonic()
            carry_out()
            seconds[what].append(time.monotonic() - begin)
    return [(what, median(found)) for what, found in seconds.items()]


def in_turn(done: Round) -> list[float]:
    """Return the seconds of a round's replies after the first that had no other's training to wait for."""
    ends = [one.end for one in done.trained]
    later = list(enumerate(done.replies()))[1:]
    return [one for place, one in later if ends[place] == max(ends[: place + 1])]


def main() -> None:
    """Print the seconds and the claim."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=6)
    asked = arguments.parse_args()
    backbone, rounds = ("test_vit", 2) if asked.quick else ("vit_b16", asked.rounds)
    if rounds < 2:
        arguments.error("the first round is dropped: give two or more")
    report([measure(backbone, rounds)], asked)


if __name__ == "__main__":
    told(main)
