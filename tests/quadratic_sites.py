"""Sites whose optimum is known: each minimises ``1/2 sum a (w - b)^2`` by plain gradient steps, in NumPy.

They answer the messages of a real round (``train_round``: strategy, guard, grid) and use the strategy's own
site side, as a site does; what they keep between rounds lies in a dictionary here.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from memory_grid import MemoryGrid, record, values
from numpy.typing import NDArray

from strategies.catalogue import build, site_side
from strategies.exchange import Member
from strategies.fednova import accumulated_rate
from strategies.memory import remembered, restore
from strategies.round_settings import RoundSettings
from strategies.rounds import RoundResult, train_round
from strategies.site_side import LocalWork, NDArrays

Floats = NDArray[np.float64]

logging.getLogger("flwr").setLevel(logging.WARNING)  # one line for every round of thousands


@dataclass
class QuadraticSite:
    """One site: curvature ``a`` and optimum ``b`` by coordinate, steps of ``rate``, and its number of
    images.
    """

    a: Floats
    b: Floats
    steps: int = 5
    rate: float = 0.1
    images: int = 10
    hostile: Callable[[Floats, Floats], Floats] | None = None
    """From the model sent and the model trained to what a lying site sends."""
    state: NDArrays = field(default_factory=dict)

    def loss(self, w: Floats) -> float:
        """Return the site's loss."""
        return float(0.5 * (self.a * (w - self.b) ** 2).sum())

    def gradient(self, w: Floats) -> Floats:
        """Return the gradient of the loss."""
        return self.a * (w - self.b)

    def answer(self, name: str, message: Message) -> RecordDict:
        """Return the reply to ``train`` of the strategy called ``name``."""
        side = site_side(name)
        arrays = values(message.content["arrays"])
        sent = dict(message.content["config"].items())
        control = values(message.content["control"]) if "control" in message.content else {}
        start = {"w": arrays["w"]}
        objective = side.objective(sent, control, self.state)
        w = start["w"].astype(np.float64)
        for _ in range(self.steps):
            gradient = self.gradient(w) + objective.mu * (w - start["w"])
            w = w - self.rate * (gradient + objective.offset.get("w", 0.0))
        end = {"w": w.astype(start["w"].dtype)}
        progress = accumulated_rate([self.rate] * self.steps)
        outcome = side.outcome(sent, control, self.state, LocalWork(start, end, {"w": progress}))
        self.state = outcome.state
        if self.hostile is not None:
            end = {"w": self.hostile(start["w"], end["w"]).astype(start["w"].dtype)}
        metrics = {
            "num-examples": self.images,
            "loss": 0.5,
            "progress": progress,
            "initial-loss": self.loss(start["w"]),
        }
        beside = {key: record(**one) for key, one in outcome.sent.items()}
        return RecordDict({"arrays": record(**end), **beside, "metrics": MetricRecord(metrics)})


class PromptGrid(MemoryGrid):
    """A grid whose sites have answered by the time that they are asked: thousands of rounds take seconds."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(len(self.sent))
            self.sent.append((message.metadata.dst_node_id, message.metadata.message_type))
            self._answer(message.metadata.dst_node_id, message)
            ids.append(message.metadata.message_id)
        return ids


@dataclass
class QuadraticFederation:
    """Sites under one strategy, round by round."""

    name: str
    sites: Sequence[QuadraticSite]
    parameters: dict[str, Any] = field(default_factory=dict)
    weighting: str = "examples"
    fraction: float = 1.0
    start: float = 0.0

    def __post_init__(self) -> None:
        self.sites = copy.deepcopy(list(self.sites))  # they keep a state of their own in each federation
        self.strategy: Strategy = build(self.name, **self.parameters)
        self.arrays: ArrayRecord = record(w=np.full(len(self.sites[0].a), self.start))
        self.rounds = 0

    @property
    def w(self) -> Floats:
        """The global model."""
        return values(self.arrays)["w"].astype(np.float64)

    def run(self, rounds: int) -> "QuadraticFederation":
        """Hold so many rounds and return the federation."""
        for _ in range(rounds):
            self.a_round()
        return self

    def a_round(self) -> RoundResult:
        """Hold one round."""
        self.rounds += 1
        members = [Member(101 + i, f"site-{i:02}", site.images) for i, site in enumerate(self.sites)]
        answers = {
            member.node_id: lambda message, site=site: site.answer(self.name, message)
            for member, site in zip(members, self.sites, strict=True)
        }
        settings = RoundSettings(
            deadline_s=20, quorum=0.5, fraction=self.fraction, seed=3, weighting=self.weighting
        )
        result = train_round(
            self.strategy, PromptGrid(answers), self.rounds, self.arrays, ConfigRecord(), members, settings
        )
        self.arrays = result.arrays
        return result

    def restart_server(self) -> None:
        """Build the strategy anew from what a run's folder holds: the model, and the strategy's memory."""
        memory = {key: one.copy() for key, one in remembered(self.strategy, self.name).items()}
        self.strategy = build(self.name, **self.parameters)
        restore(self.strategy, self.name, memory)

    def optimum(self) -> Floats:
        """Return the minimum of the weighted sum of the sites' losses: ``sum p a b / sum p a``."""
        weights = [site.images if self.weighting == "examples" else 1.0 for site in self.sites]
        pairs = list(zip(weights, self.sites, strict=True))
        return sum(p * s.a * s.b for p, s in pairs) / sum(p * s.a for p, s in pairs)

    def error(self) -> float:
        """Return the largest distance to the optimum."""
        return float(np.abs(self.w - self.optimum()).max())


def unlike_sites(count: int = 4, dimensions: int = 3, seed: int = 0) -> list[QuadraticSite]:
    """Return sites that differ in curvature, optimum, steps and size."""
    rng = np.random.default_rng(seed)
    return [
        QuadraticSite(
            a=rng.uniform(0.2, 2.0, dimensions),
            b=rng.normal(0, 3, dimensions),
            steps=int(rng.integers(2, 12)),
            images=int(rng.integers(5, 40)),
        )
        for _ in range(count)
    ]
