"""The same job written plainly for Flower, as its tutorials show it: ServerApp, ClientApp, FedAvg, Ray.

More generous than the tutorials in one thing: a worker keeps its model and its sites' pixels open, where they
build and load them anew for every message. Flower's and Ray's telemetry is off and workers run at the normal
priority, as in fedderm (importing ``fedderm.runtime`` sees to both).
"""

import os
import time
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.systems.measured import Measured, Round, Training
from fedderm.config import from_json, to_json
from fedderm.devices import use_threads
from fedderm.model.cascade import Cascade
from fedderm.model.state import to_arrays
from fedderm.node import open_site, site_seed
from fedderm.serving import first_model
from fedderm.settings import Experiment
from fedderm.training import Stretch, train_locally
from fedderm.trainset import TrainSet
from fedderm.weights import Arrays

client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train the model that was sent on this site's images and return it."""
    text = str(message.content["config"]["experiment"])
    experiment, place = _experiment(text), int(context.node_config["partition-id"])
    number = int(str(message.content["config"]["server-round"]))
    data, model = _images(text, place), _model(text)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    begin = time.monotonic()
    seed = site_seed(experiment, experiment.sites[place].name, number)
    result = train_locally(model, data, experiment.training, Stretch(number, experiment.rounds), seed)
    end = time.monotonic()
    metrics = MetricRecord(
        {
            "num-examples": len(data),
            "loss": result.loss,
            "place": place,
            "worker": os.getpid(),
            "begin": begin,
            "end": end,
        }
    )
    return Message(
        RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message
    )


@cache
def _experiment(text: str) -> Experiment:
    return from_json(text)


@cache
def _images(text: str, place: int) -> TrainSet:
    experiment = _experiment(text)
    return open_site(experiment, experiment.sites[place], "", frozenset()).train_set(experiment.training)


@cache
def _model(text: str) -> Cascade:
    experiment = _experiment(text)
    use_threads(experiment.resources.cpus_per_site)
    model = Cascade(experiment.model, pretrained=False)
    # As fedderm trains it; in torch's own order the same steps take longer.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class NotedFedAvg(FedAvg):
    """Flower's FedAvg, with the time of what it does noted."""

    def __init__(self, names: Sequence[str], count: int) -> None:
        share = count / len(names)
        super().__init__(share, 0.0, min_train_nodes=count, min_available_nodes=len(names))
        self._names = names
        self._begins: list[float] = []
        self._done: list[tuple[list[Training], float]] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return FedAvg's messages, and note the round's begin."""
        self._begins.append(time.monotonic())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return FedAvg's mean, and note when it was ready."""
        told: list[Any] = [reply.content["metrics"] for reply in replies if not reply.has_error()]
        found = super().aggregate_train(server_round, replies)
        trained = [
            Training(self._names[one["place"]], one["worker"], one["begin"], one["end"]) for one in told
        ]
        self._done.append((trained, time.monotonic()))
        return found

    def rounds(self) -> list[Round]:
        """Return the rounds, each to the begin of the next, the last to the moment that its mean was
        ready."""
        ends = [*self._begins[1:], self._done[-1][1]]
        return [
            Round(begin, end, trained, [mean] * len(trained), len(trained))
            for begin, end, (trained, mean) in zip(self._begins, ends, self._done, strict=True)
        ]


def serve(grid: Grid, experiment: Experiment, rounds: int, counts: Sequence[int]) -> Measured:
    """Return ``rounds`` rounds of ``counts`` sites each, in turn, drawn by Flower; each begins with the first
    model."""
    done: list[Round] = []
    final: Arrays = {}
    model = Cascade(experiment.model, pretrained=False)
    initial = first_model(experiment).arrays
    for count in counts:
        strategy = NotedFedAvg([site.name for site in experiment.sites], count)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in initial.items()})
        result = strategy.start(
            grid,
            ArrayRecord(model.state_dict()),
            rounds,
            train_config=ConfigRecord({"experiment": to_json(experiment)}),
        )
        done += strategy.rounds()
        model.load_state_dict(result.arrays.to_torch_state_dict())
        final = to_arrays(model)
    return Measured(done, final)


def run(experiment: Experiment, rounds: int, counts: Sequence[int]) -> Measured:
    """Return the experiment's first rounds under Flower's simulation: see ``serve``."""
    server = ServerApp()
    found: list[Measured] = []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        found.append(serve(grid, experiment, rounds, counts))

    resources, nodes = experiment.resources, len(experiment.sites)
    run_simulation(
        server,
        client,
        nodes,
        backend_config={
            "init_args": {"num_cpus": resources.workers_for(nodes) * resources.cpus_per_site},
            "client_resources": {"num_cpus": resources.cpus_per_site, "num_gpus": 0.0},
        },
    )
    return found[0]
