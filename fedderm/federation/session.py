"""What every part of the server's side needs: the grid, the experiment, the folder, and someone to tell."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid

from fedderm import messages
from fedderm.evaluation.long_format import LongRow
from fedderm.runs import RunFolder
from fedderm.settings import Experiment
from strategies.exchange import Event, Member, Reply, exchange
from strategies.rounds import size


class Observer(Protocol):
    """Someone who is told how a run goes on: a progress bar, or a log."""

    def stage(self, title: str, sites: Sequence[str]) -> None:
        """Take note that ``sites`` are about to be asked."""

    def site(self, event: Event) -> None:
        """Take note of what one site did."""

    def round_done(self, number: int, rounds: int, rows: Sequence[LongRow]) -> None:
        """Take note of a finished round and of its pooled metrics."""

    def warn(self, sentence: str) -> None:
        """Take note of something a person should know."""


@dataclass
class Traffic:
    """Bytes sent down to and up from the sites."""

    down: int = 0
    up: int = 0


@dataclass(frozen=True)
class Session:
    """One sitting of a run at the server."""

    grid: Grid
    folder: RunFolder
    observer: Observer
    should_stop: Callable[[], bool]
    salt: str
    given_up: Mapping[str, Sequence[str]]
    """Site to the salted image ids that it leaves to another site."""
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def experiment(self) -> Experiment:
        """Return the run's experiment."""
        return self.folder.experiment

    def ask(
        self,
        title: str,
        message_type: str,
        members: Sequence[Member],
        arrays: ArrayRecord | None,
        **values: Any,
    ) -> Iterator[Reply]:
        """Yield one reply for each member, in their order; failures carry a reason that names the site."""
        content = self.content(arrays, **values)
        self.observer.stage(title, [member.name for member in members])
        self.traffic.down += size(content) * len(members)
        requests = [(member, content) for member in members]
        deadline = self.experiment.strategy.deadline
        for reply in exchange(
            self.grid, requests, message_type, deadline, self.observer.site, should_stop=self.should_stop
        ):
            if reply.message is not None:
                self.traffic.up += size(reply.message.content)
            yield reply

    def content(self, arrays: ArrayRecord | None, **values: Any) -> RecordDict:
        """Return a message's content for any site."""
        return messages.request(self.config(**values), arrays)

    def config(self, **values: Any) -> Any:
        """Return the config record that every message of this sitting carries."""
        shared = {"salt": self.salt, "given_up": dict(self.given_up)}
        return messages.config_record(self.experiment, **shared, **values)
