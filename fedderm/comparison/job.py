"""What a worker process is told about a cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A cell to run, in plain values: its folder, and what the audit made its sites give up."""

    folder: str
    data_root: str | None
    """Where the data lie now; None: where the config says."""
    salt: str
    given_up: Mapping[str, Sequence[str]]
    """Site to salted image ids."""
