"""fedderm itself: a run, whole or up to a round, or rounds alone over more and more of the sites."""

import contextlib
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any
from unittest.mock import patch

from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp

from benchmarks.systems import noted_client
from benchmarks.systems.measured import Measured, Round, Training
from benchmarks.systems.quiet import Quiet
from fedderm import messages, simulation
from fedderm.federation.roll_call import roll_call, training_members
from fedderm.federation.session import Session
from fedderm.runs import RunFolder
from fedderm.runtime import simulate, stop_requested
from fedderm.serving import first_model
from fedderm.settings import Experiment
from fedderm.weights import Arrays, read_arrays
from strategies.arrays import to_record
from strategies.catalogue import WEIGHT
from strategies.errors import Interrupted
from strategies.exchange import Member
from strategies.fedavg import StreamingFedAvg
from strategies.round_settings import RoundSettings
from strategies.rounds import train_round


class Enough(Interrupted):
    """The rounds that are measured have been carried out."""


class Begins(Quiet):
    """Notes when each round of a run begins, and ends the run where one begins that is not asked for."""

    def __init__(self, rounds: int) -> None:
        self.times: list[float] = []
        self._rounds = rounds

    def stage(self, title: str, sites: Sequence[str]) -> None:
        """Note the time of a round's begin. Raises Enough after the last one."""
        del sites
        if title.startswith("round ") and title.endswith("train"):
            self.times.append(time.monotonic())
            if len(self.times) > self._rounds:
                raise Enough("these were the rounds that are measured")


def run(experiment: Experiment, rounds: int) -> Measured:
    """Return the first ``rounds`` rounds of ``fedderm run``, which ends where the next one begins.

    A round lasts from the moment that it is announced to the next one's: model, metrics and state have been
    written to disk in between. Of a whole run the last round is left out, which an evaluation follows.
    """
    folder, begins = RunFolder.create(experiment), Begins(rounds)
    with patch.object(simulation, "client", noted_client.app), contextlib.suppress(Enough):
        simulation.run_simulation(folder, begins)
    done = [
        Round(begin, end, trained := _trained(entry["sites"]), (), len(trained))
        for entry, (begin, end) in zip(folder.state()["history"], pairwise(begins.times), strict=False)
    ]
    return Measured(done, read_arrays(folder.checkpoint(rounds)))


class NotedFedAvg(StreamingFedAvg):
    """fedderm's FedAvg, with the moment noted at which each reply was in the mean."""

    def __init__(self) -> None:
        super().__init__(1.0, 1.0, 1, 1, 1, weighted_by_key=WEIGHT)
        self.added: list[float] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the mean."""
        return super().aggregate_train(server_round, self._noted(iter(replies)))

    def _noted(self, replies: Iterator[Message]) -> Iterator[Message]:
        """Yield the replies; whoever asks for the next one has added the one before."""
        for reply in replies:
            held = [reply]
            del reply
            yield held.pop()
            self.added.append(time.monotonic())


def rounds_alone(experiment: Experiment, rounds: int, counts: Sequence[int]) -> Measured:
    """Return rounds over the first sites, without the rest of a run: see ``serve``."""
    server, found = ServerApp(), list[Measured]()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        found.append(serve(grid, experiment, rounds, counts))

    simulate(
        server,
        noted_client.app,
        len(experiment.sites),
        experiment.resources,
        experiment.runs_dir / "flower.log",
        preload=simulation.WORKER_MODULES,
    )
    return found[0]


def serve(grid: Grid, experiment: Experiment, rounds: int, counts: Sequence[int]) -> Measured:
    """Return the server's real rounds, after a real roll call, over as many sites as each of ``counts`` says.

    Each count begins with the first model.
    """
    folder = RunFolder.create(experiment)
    session = Session(grid, folder, Quiet(), stop_requested, secrets.token_hex(16), {})
    members = training_members(session, roll_call(session))
    done: list[Round] = []
    final: Arrays = {}
    for count in counts:
        arrays = to_record(first_model(experiment).arrays)
        for number in range(1, rounds + 1):
            noted, arrays = _round(session, members[:count], number, arrays)
            done.append(noted)
        final = {name: array.copy() for name, array in messages.from_record(arrays).items()}
    return Measured(done, final)


def _round(
    session: Session, members: Sequence[Member], number: int, arrays: ArrayRecord
) -> tuple[Round, ArrayRecord]:
    strategy, settings = NotedFedAvg(), session.experiment.strategy
    begin = time.monotonic()
    result = train_round(
        strategy,
        session.grid,
        number,
        arrays,
        session.config(pooled=False),
        members,
        RoundSettings(
            deadline_s=settings.deadline, quorum=1.0, fraction=1.0, seed=0, weighting=settings.weighting
        ),
        should_stop=stop_requested,
    )
    end = time.monotonic()
    return Round(begin, end, _trained(result.metrics), strategy.added, len(members)), result.arrays


def _trained(metrics: Mapping[str, Mapping[str, Any]]) -> list[Training]:
    return [
        Training(name, one[noted_client.WORKER], one[noted_client.BEGIN], one[noted_client.END])
        for name, one in metrics.items()
    ]
