"""Memory: of the server for each additional site, and of a whole cascade of two ViT-B/16 on one machine.

Proportional set sizes (PSS) of all processes of a run are read from /proc every so often; pages that several
share count once, and so does what lies in /dev/shm (benchmarks/systems/proportional.py).

``server``: a net of 25 M parameters (ResNet-50) trained for a step at each of 4 sites, then at each of 16, in
fedderm, or of 8 in plain Flower, which holds so much that four sites more show it. The peaks of the server's
process between its first round and its last, the difference over the sites that were added, in models of
4 bytes a parameter. All processes together, which also hold what
waits between worker and server, are printed beside it.

``cascade``: eight sites train ``trunk: separate`` with two ViT-B/16 (172 M parameters) at 224 px, a whole run
with its evaluation, or with ``--no-evaluation`` two rounds alone. Peak of all processes, and what a steady
round takes beyond the training of its busiest worker (the model's way, checks, mean, and 0.7 GB written to
disk after every round).

    python -m benchmarks.memory [server cascade]
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.claims import Claim, parser, report, told
from benchmarks.systems import data
from benchmarks.systems.proportional import Peak, peak
from benchmarks.systems.running import FLOWER, OURS, Bench

GB: Final = 1e9


@dataclass(frozen=True)
class Seen:
    """One run: its peaks between the first round's begin and the last one's end, and the model's size."""

    rounds: Peak
    whole: Peak
    model: int
    """Bytes."""
    overhead: float
    """Median over steady rounds of a round's seconds over its training's, minus one."""
    seconds: float
    """Median seconds of a steady round."""


def run(
    system: str,
    sites: int,
    images: int,
    size: int,
    interval: float,
    workers: int | None,
    only: int | None = None,
    **changes: Any,
) -> Seen:
    """Return what was seen of ``system`` with ``sites`` sites of ``images`` images of ``size`` pixels.

    ``only``: so many rounds, and no more of the run; None is a whole one.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        experiment = data.experiment(Path(name), [images] * sites, size, workers, **changes)
        result = Bench(experiment, Path(name)).run(system, interval=interval, rounds=only)
    measured = result.measured
    steady = measured.steady()
    seen = Seen(
        rounds=peak(result.memory, measured.rounds[0].begin, measured.rounds[-1].end),
        whole=peak(result.memory),
        model=sum(array.nbytes for array in measured.arrays.values()),
        overhead=median(one.seconds / one.training for one in steady) - 1,
        seconds=median(one.seconds for one in steady),
    )
    print(
        f"  {system:8} {sites:3} sites: server {seen.rounds.server / GB:.2f} GB, all processes "
        f"{seen.rounds.total / GB:.2f} GB while rounds go on ({seen.rounds.samples} samples); in all "
        f"{seen.whole.server / GB:.2f} and {seen.whole.total / GB:.2f} GB; a model {seen.model / GB:.2f} GB",
        flush=True,
    )
    return seen


def additional(few: int, many: int, backbone: str, asked: argparse.Namespace) -> Claim:
    """Return the claim about the server's memory for each site between ``few`` and ``many``."""
    print(f"server memory, {backbone}:", flush=True)
    changes = {
        "model": {"backbone": backbone},
        "training": {"batch_size": 2, "local_steps": 1},
    }
    per_site: dict[str, float] = {}
    for system, most in ((OURS, many), (FLOWER, 2 * few)):
        first, second = (run(system, n, 2, 32, 0.2, asked.workers, 2, **changes) for n in (few, most))
        steps = (most - few) * first.model
        per_site[system] = (second.rounds.server - first.rounds.server) / steps
        together = (second.rounds.total - first.rounds.total) / steps
        print(
            f"  {system:8} for each additional site: server {per_site[system]:+.2f} models, "
            f"all processes {together:+.2f}"
        )
    return Claim(
        what=f"server memory per additional site, {few} to {many} sites",
        unit="models",
        ours=per_site[OURS],
        flower=per_site[FLOWER],
        target=0.1,
    )


def cascade(backbone: str, size: int, asked: argparse.Namespace) -> list[Claim]:
    """Return the claims about a cascade of two large networks at eight sites."""
    exchange: str = asked.exchange
    how = f"{size} px, sent in {exchange}"
    print(f"cascade of two {backbone}, eight sites of {asked.images} images, {how}:", flush=True)
    seen = run(
        OURS,
        8,
        asked.images,
        size,
        0.5,
        asked.workers,
        None if asked.evaluation else 2,
        rounds=3,
        model={"backbone": backbone, "trunk": "separate"},
        training={"batch_size": asked.batch},
        strategy={"exchange": exchange},
    )
    what = f"cascade of two {backbone} ({seen.model / 4e6:.0f} M), eight sites, {exchange}"
    alone = "" if asked.evaluation else ", of training alone"
    note = "plain Flower needs two models a site at the server and does not fit 24 GB (earlier measurement)"
    return [
        Claim(
            what=f"{what}: peak memory{alone}", unit="GB", ours=seen.whole.total / GB, target=12.0, note=note
        ),
        Claim(
            what=f"{what}: a round beyond its training",
            unit="%",
            ours=100 * seen.overhead,
            target=10.0,
            note=f"{asked.images} images a site; a steady round took {seen.seconds:.1f} s",
        ),
    ]


def main() -> None:
    """Print peaks and claims."""
    arguments = parser(__doc__)
    arguments.add_argument("parts", nargs="*", help="server, cascade (default: both)")
    arguments.add_argument("--images", type=int, default=8, help="training images of a site of the cascade")
    arguments.add_argument(
        "--no-evaluation",
        dest="evaluation",
        action="store_false",
        help="of the cascade two rounds, in place of a whole run of three with its evaluation",
    )
    arguments.add_argument("--batch", type=int, default=4, help="batch size of the cascade")
    arguments.add_argument(
        "--exchange", choices=("float32", "float16"), default="float32", help="how the cascade travels"
    )
    asked = arguments.parse_args()
    unknown = sorted(set(asked.parts) - {"server", "cascade"})
    if unknown:
        arguments.error(f"there is no part {unknown[0]}; choose server or cascade")
    found = []
    if not asked.parts or "server" in asked.parts:
        found.append(additional(*((2, 4, "test_resnet") if asked.quick else (4, 16, "resnet50")), asked))
    if not asked.parts or "cascade" in asked.parts:
        found += cascade(*(("test_vit", 32) if asked.quick else ("vit_b16", 224)), asked)
    report(found, asked)


if __name__ == "__main__":
    told(main)
