"""What a system tells of its rounds, in the one clock that all processes of a machine share."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Self

import numpy as np

from fedderm.weights import Arrays, read_arrays, save_arrays


@dataclass(frozen=True)
class Training:
    """One site's local training: seconds of ``time.monotonic`` at both ends, and the process it ran in."""

    site: str
    worker: int
    begin: float
    end: float


@dataclass(frozen=True)
class Round:
    """One round, from its begin to the moment that the next one can begin."""

    begin: float
    end: float
    trained: Sequence[Training] = ()
    added: Sequence[float] = ()
    """When the reply of each training was in the server's mean, in the order of ``trained``."""
    sites: int = 0

    @property
    def seconds(self) -> float:
        """Return how long the round took."""
        return self.end - self.begin

    @property
    def training(self) -> float:
        """Return the seconds that the busiest worker trained: no round of these trainings is shorter."""
        busy: dict[int, float] = defaultdict(float)
        for one in self.trained:
            busy[one.worker] += one.end - one.begin
        return max(busy.values(), default=0.0)

    def replies(self) -> list[float]:
        """Return each reply's seconds from trained, in the worker, to added, at the server."""
        return [added - one.end for added, one in zip(self.added, self.trained, strict=True)]


@dataclass(frozen=True)
class Measured:
    """What one system did, and the model that it ended with."""

    rounds: Sequence[Round]
    arrays: Arrays = field(default_factory=dict, compare=False)

    def steady(self, sites: int | None = None) -> list[Round]:
        """Return the rounds without the first one, in which lazy things happen; those over ``sites`` sites
        where it is given."""
        chosen = [one for one in self.rounds if sites is None or one.sites == sites]
        return chosen[1:]

    def save(self, path: Path) -> None:
        """Write ``path`` and, beside it, the model."""
        path.write_text(json.dumps([asdict(one) for one in self.rounds]), encoding="utf-8")
        save_arrays(path.with_suffix(".safetensors"), self.arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return what ``save`` wrote."""
        rounds = [
            Round(**{**one, "trained": [Training(**each) for each in one["trained"]]})
            for one in json.loads(path.read_text(encoding="utf-8"))
        ]
        return cls(rounds, read_arrays(path.with_suffix(".safetensors")))


class Unequal(ValueError):  # noqa: N818 - says what is wrong
    """Two systems that should have done the same ended with different models."""


def largest_difference(first: Arrays, second: Arrays) -> float:
    """Return the largest absolute difference of two models' values; raises Unequal for other arrays."""
    if first.keys() != second.keys():
        raise Unequal("the two models do not have the same arrays")
    if any(first[name].shape != second[name].shape for name in first):
        raise Unequal("the two models' arrays do not have the same shapes")
    return max(
        (
            float(np.abs(first[name].astype(np.float64) - second[name].astype(np.float64)).max(initial=0.0))
            for name in first
        ),
        default=0.0,
    )


def require_equal(models: Mapping[str, Arrays], reference: str, tolerance: float) -> dict[str, float]:
    """Return each other model's largest difference to ``reference``.

    Raises Unequal where one is above ``tolerance`` or not a number: seconds of unlike work are not compared.
    """
    found = {}
    for name, arrays in models.items():
        if name == reference:
            continue
        apart = largest_difference(arrays, models[reference])
        if not apart <= tolerance:
            raise Unequal(
                f"the final weights of {name} and {reference} differ by {apart:.2g}, more than "
                f"{tolerance:g}: they did not do the same work, so their times are not compared"
            )
        found[name] = apart
    return found


def median_seconds(rounds: Sequence[Round]) -> float:
    """Return the median seconds of the rounds."""
    return median(one.seconds for one in rounds)
