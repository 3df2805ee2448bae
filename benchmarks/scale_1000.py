"""What 1,000 sites need of the server: messages, bytes, seconds and memory of a round with trivial training.

The real round (``train_round``: messages, checks, mean in site order) over fedderm's own simulated grid with
as many nodes, whose app sends the model back as it came; so what takes time is the federation. A model of a
million parameters, unless told otherwise. The server's own processor seconds are told apart from the wall's,
which the workers' copying shares on one machine. Extrapolation to other models and sites:
docs/performance.md, "A thousand sites".

    python -m benchmarks.scale_1000
"""

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.claims import Claim, parser, report, told
from benchmarks.systems.proportional import Peak, peak
from benchmarks.systems.running import OURS, marked_process
from benchmarks.systems.small import Cost, Task

MODELS: Final = 0.1
"""Models of server memory that another site may take."""


def run(nodes: int, asked: argparse.Namespace) -> tuple[list[Cost], Peak]:
    """Return what each round over ``nodes`` sites cost, and the peak of memory while rounds went on."""
    workers = asked.workers or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        path = Path(name) / "task.json"
        task = Task(OURS, nodes, workers, asked.rounds, asked.parameters)
        path.write_text(json.dumps(asdict(task)), encoding="utf-8")
        ended = marked_process(["-m", "benchmarks.systems.small", str(path)], Path(name) / "said.log", 0.2)
        costs = [Cost(**one) for one in json.loads((Path(name) / "costs.json").read_text(encoding="utf-8"))]
    until = costs[-1].begin + costs[-1].seconds
    return costs, peak(ended.memory, costs[0].begin, until)


def main() -> None:
    """Print a row for each number of sites, and the server's memory for another one."""
    arguments = parser(__doc__)
    arguments.add_argument("--sites", type=int, nargs=2, default=[100, 1000], metavar=("FEW", "MANY"))
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--parameters", type=int, default=1_000_000)
    asked = arguments.parse_args()
    if asked.quick:
        asked.sites, asked.parameters, asked.rounds = [4, 12], 10_000, 2
    few, many = asked.sites
    if asked.rounds < 2 or not 0 < few < many:
        arguments.error("give two rounds or more, and the smaller number of sites first")
    model = 4 * asked.parameters
    print(f"{asked.parameters / 1e6:g} M parameters, {model / 1e6:g} MB a model")
    held = {}
    for nodes in (few, many):
        costs, seen = run(nodes, asked)
        steady = costs[1:]
        seconds = median(one.seconds for one in steady)
        processor = median(one.processor for one in steady)
        held[nodes] = seen
        print(
            f"  {nodes:5} sites: {2 * nodes} messages and "
            f"{(steady[0].down + steady[0].up) / 1e6:,.0f} MB a round; "
            f"{seconds:.2f} s on the wall, {processor:.2f} s of the server's processor "
            f"({1000 * processor / nodes:.2f} ms a site); server {seen.server / 1e6:,.0f} MB, "
            f"all processes {seen.total / 1e6:,.0f} MB",
            flush=True,
        )
    per_site = (held[many].server - held[few].server) / (many - few) / model
    report(
        [
            Claim(
                what=f"server memory per additional site, {few} to {many} sites",
                unit="models",
                ours=per_site,
                target=MODELS,
                note=f"{2 * many} messages a round, {processor:.1f} s of the server's processor",
            )
        ],
        asked,
    )


if __name__ == "__main__":
    told(main)
