"""The limit: worker processes that do the same local training and add up weighted models; nothing else.

As many persistent processes as fedderm's workers, forked from this one, each with its own sites from the
first round on, their pixels and its model open. The global model and each worker's partial sum lie in shared
memory, so that a round moves no model through a pipe: what is sent are its number and the times of its
trainings.
"""

import os
import time
from collections.abc import Mapping, Sequence
from math import prod
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as processes
from torch import Tensor

from benchmarks.systems.measured import Measured, Round, Training
from fedderm.config import from_json, to_json
from fedderm.devices import use_threads
from fedderm.node import open_site, site_seed
from fedderm.serving import first_model
from fedderm.settings import Experiment
from fedderm.training import Stretch, train_locally
from fedderm.weights import Arrays
from fedderm.worker_models import worker_model

_READY_WITHIN = 300.0


class Layout:
    """The floating-point arrays of a model, one after the other in one vector."""

    def __init__(self, arrays: Arrays) -> None:
        self._shapes = {
            name: array.shape for name, array in arrays.items() if np.issubdtype(array.dtype, np.floating)
        }
        self.size = sum(prod(shape) for shape in self._shapes.values())

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the arrays in ``vector`` (size,), by name."""
        parts = torch.split(vector, [prod(shape) for shape in self._shapes.values()])
        return {
            name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def fill(self, vector: Tensor, arrays: Mapping[str, Any]) -> None:
        """Copy a model's arrays into ``vector`` (size,)."""
        for name, view in self.views(vector).items():
            view.copy_(torch.from_numpy(np.array(arrays[name])))


def run(experiment: Experiment, rounds: int, counts: Sequence[int]) -> Measured:
    """Return ``rounds`` rounds over as many of the experiment's first sites as each of ``counts`` says.

    Each count begins with the first model. Raises ValueError where a site has several threads.
    """
    if experiment.resources.cpus_per_site != 1:
        raise ValueError(
            "the limit forks its workers, which have one thread each: set resources.cpus_per_site to 1"
        )
    use_threads(1)
    initial = first_model(experiment).arrays
    layout = Layout(initial)
    shared = torch.zeros(layout.size).share_memory_()  # type: ignore[no-untyped-call]
    sums, pipes, started = [], [], []
    context = processes.get_context("fork")  # which spares each worker the imports
    workers = experiment.resources.workers_for(len(experiment.sites))
    for place in range(workers):
        sums.append(torch.zeros(layout.size).share_memory_())  # type: ignore[no-untyped-call]
        ours, theirs = context.Pipe()
        of_worker = (theirs, to_json(experiment), shared, sums[place], range(place, max(counts), workers))
        started.append(context.Process(target=work, args=of_worker, daemon=True))
        started[-1].start()
        theirs.close()
        pipes.append(ours)
    sizes: dict[int, int] = {}
    for pipe in pipes:
        if not pipe.poll(_READY_WITHIN):
            raise TimeoutError(f"a worker of the limit was not ready within {_READY_WITHIN:g} s")
        sizes |= pipe.recv()
    done = []
    for count in counts:
        layout.fill(shared, initial)
        total = sum(sizes[place] for place in range(count))
        done += [_round(number, count, total, shared, sums, pipes) for number in range(1, rounds + 1)]
    for pipe, process in zip(pipes, started, strict=True):
        pipe.send(None)
        process.join()
    final = {name: view.numpy().copy() for name, view in layout.views(shared).items()}
    return Measured(done, {name: final.get(name, array) for name, array in initial.items()})


def _round(
    number: int,
    count: int,
    total: int,
    shared: Tensor,
    sums: Sequence[Tensor],
    pipes: Sequence[Connection],
) -> Round:
    begin = time.monotonic()
    for pipe in pipes:
        pipe.send((number, count, total))
    trained = [one for pipe in pipes for one in pipe.recv()]
    shared.copy_(sums[0])
    for one in sums[1:]:
        shared.add_(one)
    end = time.monotonic()
    return Round(begin, end, trained, [end] * len(trained), count)


def work(pipe: Connection, experiment_json: str, shared: Tensor, own: Tensor, places: Sequence[int]) -> None:
    """Train the sites at ``places`` when asked to, from the model in ``shared`` into the sum ``own``."""
    experiment = from_json(experiment_json)
    sites = {place: experiment.sites[place] for place in places}
    data = {
        place: open_site(experiment, site, "", frozenset()).train_set(experiment.training)
        for place, site in sites.items()
    }
    initial = first_model(experiment).arrays
    model = worker_model(experiment, initial)
    layout = Layout(initial)
    sent, added, state = layout.views(shared), layout.views(own), model.state_dict()
    pipe.send({place: len(one) for place, one in data.items()})
    while (order := pipe.recv()) is not None:
        number, count, total = order
        own.zero_()
        trained = []
        for place in (place for place in places if place < count):
            name = sites[place].name
            for key, values in sent.items():
                state[key].copy_(values)
            begin = time.monotonic()
            stretch = Stretch(number, experiment.rounds)
            train_locally(
                model, data[place], experiment.training, stretch, site_seed(experiment, name, number)
            )
            trained.append(Training(name, os.getpid(), begin, time.monotonic()))
            for key, values in added.items():
                values.add_(state[key], alpha=len(data[place]) / total)
        pipe.send(trained)
