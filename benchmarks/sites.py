"""Seconds of a round as sites grow from 4 to 256: tiny net, one step of eight images at every site.

One federation of as many sites as the largest number; rounds are held over the first 4, 16, 64, ... of them,
by fedderm's own ``train_round`` over its own grid, by plain Flower (which draws as many), and at the limit.
The training is the same for every site, so that what grows faster than the limit is the cost of federating.
Of each number of sites the first round is dropped, the others count by their median (one of Flower's, whose
rounds are long). Least squares of a line and of a parabola are printed with what they leave, and which part
of the cost at the most sites is quadratic.

    python -m benchmarks.sites
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.claims import Claim, parser, report, told
from benchmarks.fits import explained, fit, quadratic_share
from benchmarks.systems import data
from benchmarks.systems.measured import median_seconds
from benchmarks.systems.running import FLOWER, LIMIT, OURS, SYSTEMS, Bench

IMAGES: Final = 8
QUADRATIC: Final = 0.10
"""A tenth of the cost at the most sites may be quadratic before it is no longer called linear."""
MESSAGE: Final = 2.1
"""Milliseconds of a message under plain Flower, as measured on another day (docs of the issue)."""


def measure(
    counts: Sequence[int], rounds: int, workers: int | None, systems: Sequence[str]
) -> dict[str, list[float]]:
    """Return each system's median seconds of a round, by number of sites."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        experiment = data.experiment(
            Path(name),
            [IMAGES] * max(counts),
            32,
            workers,
            rounds=rounds,
            training={"batch_size": IMAGES, "local_steps": 1},
        )
        bench = Bench(experiment, Path(name))
        found = {
            system: bench.run(system, counts, rounds=2 if system == FLOWER else None).measured
            for system in systems
        }
    return {system: [median_seconds(one.steady(count)) for count in counts] for system, one in found.items()}


def show(counts: Sequence[int], seconds: dict[str, list[float]]) -> None:
    """Print seconds by number of sites, and the fits."""
    print("seconds a round at " + ", ".join(map(str, counts)) + " sites")
    for system, found in seconds.items():
        print(f"  {system:8} " + "  ".join(f"{one:7.3f}" for one in found))
        for degree, title in ((1, "line"), (2, "parabola")):
            fitted = fit(counts, found, degree)
            left = "  ".join(f"{1000 * one:+.0f}" for one in fitted.residuals)
            print(f"    {title:8} {fitted} s; leaves {left} ms")
        print(
            f"    R^2 of the line {explained(counts, found):.4f}; quadratic at {max(counts)} sites: "
            f"{100 * quadratic_share(counts, found):.1f} % of the round"
        )


def claims(counts: Sequence[int], seconds: dict[str, list[float]]) -> list[Claim]:
    """Return what the table says of the growth, and of a message."""
    shares = {system: quadratic_share(counts, found) for system, found in seconds.items()}
    most = max(counts)
    place = counts.index(most)
    # A message out and one back for every site.
    message = {
        system: 1000 * (found[place] - seconds[LIMIT][place]) / (2 * most)
        for system, found in seconds.items()
    }
    what = f"sites grow {min(counts)} to {most}, tiny net"
    return [
        Claim(
            what=f"{what}: quadratic part of a round",
            unit="",
            ours=shares[OURS],
            limit=shares[LIMIT],
            flower=shares.get(FLOWER),
            target=QUADRATIC,
            note=f"fedderm's line: {fit(counts, seconds[OURS], 1)} s, R^2 "
            f"{explained(counts, seconds[OURS]):.4f}",
        ),
        Claim(
            what=f"{what}: a message, at {most} sites",
            unit="ms",
            ours=message[OURS],
            flower=message.get(FLOWER),
            target=MESSAGE,
            note="half of what a site's round takes beyond the limit's",
        ),
    ]


def main() -> None:
    """Print seconds, fits and claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--most", type=int, default=256, help="the largest number of sites, a power of 4")
    arguments.add_argument("--rounds", type=int, default=5)
    asked = arguments.parse_args()
    most, rounds = (64, 2) if asked.quick else (asked.most, asked.rounds)
    counts = [count for power in range(1, 7) if (count := 4**power) <= most]
    if len(counts) < 3 or rounds < 2:
        arguments.error("a parabola needs three numbers of sites (--most 64), a median two rounds")
    seconds = measure(counts, rounds, asked.workers, SYSTEMS)
    show(counts, seconds)
    report(claims(counts, seconds), asked)


if __name__ == "__main__":
    told(main)
