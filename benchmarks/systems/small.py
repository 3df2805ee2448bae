"""Rounds with nothing to train, in a process of its own: ``python -m benchmarks.systems.small TASK``.

``TASK`` is a JSON file; what each round cost is written beside it.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# Before Flower: it reads once whether it may send telemetry.
from fedderm.runtime import Resources, simulate, stop_requested


@dataclass(frozen=True)
class Task:
    """What is to be done; under plain Flower two nodes and two rounds, whatever it says here."""

    system: str
    nodes: int
    workers: int
    rounds: int
    parameters: int = 1000
    site_code: bool = False
    """Whether the workers import what a site trains with: PyTorch, timm and fedderm's own."""


@dataclass(frozen=True)
class Cost:
    """What a round cost: seconds on the wall, the server's own of the processor, and bytes of messages."""

    seconds: float
    processor: float
    down: int
    up: int
    begin: float


def ours(task: Task, log_file: Path) -> list[Cost]:
    """Return the costs of fedderm's rounds."""
    import numpy as np
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context
    from flwr.serverapp import Grid, ServerApp

    from benchmarks.systems import small_apps
    from strategies.catalogue import build
    from strategies.exchange import Member, wait_for_nodes
    from strategies.round_settings import RoundSettings
    from strategies.rounds import train_round

    server, costs = ServerApp(), list[Cost]()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        nodes = wait_for_nodes(grid, task.nodes, 600, stop_requested)
        members = [Member(node, f"site-{place:04d}", 1) for place, node in enumerate(nodes)]
        arrays = ArrayRecord({"weights": Array(np.zeros(task.parameters, np.float32))})
        settings = RoundSettings(deadline_s=3600, quorum=1.0, fraction=1.0, seed=0, weighting="examples")
        config = ConfigRecord({"site-code": task.site_code})
        for number in range(1, task.rounds + 1):
            begin, used = time.monotonic(), time.process_time()
            done = train_round(build("fedavg"), grid, number, arrays, config, members, settings)
            seconds, processor = time.monotonic() - begin, time.process_time() - used
            costs.append(Cost(seconds, processor, done.bytes_down, done.bytes_up, begin))
            arrays = done.arrays

    preload = ("fedderm.site_tasks",) if task.site_code else ()
    simulate(server, small_apps.client, task.nodes, Resources(workers=task.workers), log_file, preload)
    return costs


def flower(task: Task) -> list[Cost]:
    """Run two rounds over two nodes under Flower's simulation; what a round costs is not told."""
    from flwr.simulation import run_simulation

    from benchmarks.systems import small_apps

    backend = {"init_args": {"num_cpus": task.workers}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(small_apps.server, small_apps.client, 2, backend_config=backend)  # type: ignore[arg-type]
    return []


def main() -> None:
    """Do the task."""
    path = Path(sys.argv[1])
    task = Task(**json.loads(path.read_text(encoding="utf-8")))
    costs = flower(task) if task.system == "Flower" else ours(task, path.with_suffix(".log"))
    path.with_name("costs.json").write_text(json.dumps([asdict(one) for one in costs]), encoding="utf-8")


if __name__ == "__main__":
    main()
