"""What a method does at a site: how it bends the local objective, and what it keeps there between rounds.

The mathematics is NumPy on named arrays; the site's training loop knows nothing of methods. It minimises
``F_k(w) + <offset, w> + mu / 2 * ||w - w_t||^2`` and says afterwards where it ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

NDArrays = dict[str, NDArray[Any]]

Keeps = Literal["norms", "norm-statistics", "heads"]
"""What a site may keep to itself, by the type of its modules: BatchNorm layers whole, their running mean and
variance only, or the classification heads."""


@dataclass(frozen=True)
class LocalObjective:
    """What is added to a site's own loss ``F_k``: ``<offset, w> + mu / 2 * ||w - w_t||^2``.

    ``offset`` holds arrays by parameter; a parameter that it leaves out has none. With ``mu = 0`` and no
    offset the objective is FedAvg's.
    """

    mu: float = 0.0
    offset: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalWork:
    """What a site's training did in a round: parameters before and after, and the way it went.

    ``progress``: by parameter, the learning rates of all steps added up, each as often as momentum repeats
    its gradient (``strategies.fednova.accumulated_rate``). With plain SGD on a constant gradient g,
    ``start - end = progress * g``.
    """

    start: Mapping[str, NDArray[Any]]
    end: Mapping[str, NDArray[Any]]
    progress: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """What a method leaves at the site, and what it sends beside the trained arrays."""

    state: NDArrays = field(default_factory=dict)
    sent: Mapping[str, NDArrays] = field(default_factory=dict)
    """Record name to arrays."""


class SiteSide:
    """The site's part of FedAvg: nothing is added and nothing is kept. Methods that do more derive from
    it.
    """

    needs_sgd: ClassVar[bool] = False
    """Whether the method's mathematics is that of SGD steps, momentum allowed."""
    stateful: ClassVar[bool] = False
    """Whether the site keeps something between rounds."""
    keeps: ClassVar[Keeps | None] = None
    """The arrays that stay the site's own: its personal model is the global one with these put in."""
    needs_initial_loss: ClassVar[bool] = False
    """Whether the server asks for the loss of the global model before training."""

    def reestimates(self, parameters: Mapping[str, Any]) -> bool:
        """Return whether a site that never trained normalises with statistics of its own images.

        ``parameters``: the strategy's, as the config has them.
        """
        del parameters
        return False

    def objective(
        self, sent: Mapping[str, Any], control: Mapping[str, NDArray[Any]], state: Mapping[str, NDArray[Any]]
    ) -> LocalObjective:
        """Return what is added to the local loss.

        ``sent``: the message's config values; ``control``: arrays that the server sent beside the model;
        ``state``: what the site kept of its last round that counted, empty before it.
        """
        del sent, control, state
        return LocalObjective()

    def outcome(
        self,
        sent: Mapping[str, Any],
        control: Mapping[str, NDArray[Any]],
        state: Mapping[str, NDArray[Any]],
        work: LocalWork,
    ) -> Outcome:
        """Return what is kept and sent after training."""
        del sent, control, state, work
        return Outcome()


class KeepsOwn(SiteSide):
    """The site's part of a method whose sites keep some arrays as their own; ``keeps`` says which."""

    stateful = True


def zeros(arrays: Mapping[str, NDArray[Any]]) -> NDArrays:
    """Return arrays of zeros like these."""
    return {name: np.zeros_like(values) for name, values in arrays.items()}
