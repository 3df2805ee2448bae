"""How a round is held, and who takes part in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from strategies.exchange import Member
from strategies.half_precision import Exchange
from strategies.intake import Weighting

_SAMPLING_STREAM = 0x73616D70  # keeps these draws apart from others made with the same (seed, round)


@dataclass(frozen=True, kw_only=True)
class RoundSettings:
    """How a round is held. Raises ValueError for a value out of range."""

    deadline_s: float
    """Seconds from the first message until silent sites are given up."""
    quorum: float
    """Fraction of the asked sites, in (0, 1], that must answer usably (rounded up, at least one)."""
    fraction: float
    """Fraction of the training sites, in (0, 1], drawn for a round (rounded, at least one)."""
    seed: int
    """Who is drawn in round r depends on (seed, r) and the sites' names only."""
    weighting: Weighting
    """Weigh sites by their training images, by their effective number of them, or all the same."""
    exchange: Exchange = "float32"
    """What large arrays travel as (strategies.half_precision)."""
    retries: int = 1
    """How often a site whose worker process died is asked again."""

    def __post_init__(self) -> None:
        if not self.deadline_s > 0:
            raise ValueError(f"deadline_s is {self.deadline_s}; it must be above 0")
        for name in ("quorum", "fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and at most 1")
        if self.seed < 0 or self.retries < 0:
            raise ValueError("seed and retries must be zero or above")
        for name, known in (("weighting", get_args(Weighting)), ("exchange", get_args(Exchange))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; use {', '.join(known)}")


def draw(members: Sequence[Member], settings: RoundSettings, number_of_round: int) -> list[Member]:
    """Return the members that take part in a round, in the order of ``members``.

    The draw is over sorted names, so that it depends neither on node ids nor on the order of connection.
    Raises ValueError for no members or two of one name.
    """
    names = sorted(member.name for member in members)
    if not names:
        raise ValueError("there is no training site; give at least one site role: train")
    if len(set(names)) < len(names):
        raise ValueError(f"two training sites share a name: {', '.join(names)}")
    count = max(1, round(settings.fraction * len(names)))
    seed = np.random.SeedSequence([settings.seed, number_of_round, _SAMPLING_STREAM])
    drawn = set(np.random.default_rng(seed).permutation(names)[:count])
    return [member for member in members if member.name in drawn]
