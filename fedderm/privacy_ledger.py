"""What private training has cost a site: a line for each round that was trained, and the epsilon of all.

The ledger lies in the site's own ``work_dir`` and is only ever added to. A round counts from the moment that
it begins, whether or not its reply arrived or counted: what may have left is spent.
"""

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock

from fedderm.training_settings import PrivacySettings

_ORDERS: Final = (
    [1 + x / 10 for x in range(1, 100)] + list(range(12, 64)) + [64, 80, 96, 128, 192, 256, 384, 512]
)
"""Renyi orders of which the best is taken; the high ones are for much noise."""


_LOCK_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Spent:
    """One round's noisy steps."""

    run: str
    round: int
    noise_multiplier: float
    sample_rate: float
    """The probability with which an image is in a step's batch."""
    steps: int


def epsilon(spent: Sequence[Spent], delta: float) -> float:
    """Return the epsilon at ``delta`` of all these steps together; 0 for none.

    By Renyi differential privacy of the subsampled Gaussian mechanism (Mironov et al., arXiv:1908.10530),
    as opacus accounts for it: neighbours are training sets with and without one image.
    """
    if not spent:
        return 0.0
    from opacus.accountants import RDPAccountant

    alike: Counter[tuple[float, float]] = Counter()  # steps add up; each kind costs a part of a second
    for one in spent:
        alike[one.noise_multiplier, one.sample_rate] += one.steps
    accountant = RDPAccountant()
    accountant.history = [(*kind, steps) for kind, steps in alike.items()]
    with warnings.catch_warnings():
        # With next to no noise it says that a lower order could be tighter; the bound holds as it is.
        warnings.simplefilter("ignore", UserWarning)
        return float(accountant.get_epsilon(delta, alphas=_ORDERS))


@dataclass(frozen=True)
class Ledger:
    """One site's ledger."""

    path: Path

    @classmethod
    def of(cls, work_dir: Path, site: str) -> "Ledger":
        """Return the ledger below a ``work_dir``; it need not exist yet."""
        return cls(work_dir / "privacy" / f"{site}.jsonl")

    def entries(self) -> list[Spent]:
        """Return all lines; raises ValueError for one that cannot be read, and so nothing is trained."""
        if not self.path.exists():
            return []
        found = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                found.append(Spent(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number}: the ledger of private training cannot be read; put back a "
                    "whole copy of it, or what was spent is not known"
                ) from error
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process of this machine from reading, judging and adding meanwhile."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
            yield

    def add(self, spent: Spent) -> None:
        """Add a line and see it on the disk. Raises OSError where the disk refuses."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(mine, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(spent)) + "\n")
            file.flush()
            os.fsync(file.fileno())


def cost_of(privacy: PrivacySettings, run: str, number: int, images: int, batch: int, steps: int) -> Spent:
    """Return what a round costs at a site of so many ``images``.

    Raises ValueError where delta is not below one over them: it would allow to publish an image.
    """
    if privacy.delta >= 1 / images:
        raise ValueError(
            f"training.privacy.delta is {privacy.delta:g} and must be below one over the training images; "
            "lower it"
        )
    return Spent(run, number, privacy.noise_multiplier, min(1.0, batch / images), steps)
