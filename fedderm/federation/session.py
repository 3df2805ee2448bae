"""What every part of the server's side needs: the grid, the experiment, the folder, and someone to tell."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any, Generic, Protocol, TypeVar

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from fedderm import messages
from fedderm.evaluation.long_format import LongRow
from fedderm.runs import RunFolder
from fedderm.settings import Experiment
from fedderm.weights import FrozenTrunk
from strategies.arrays import size, specs
from strategies.catalogue import site_side
from strategies.errors import QuorumLost
from strategies.exchange import Event, Member, Reply, exchange
from strategies.half_precision import halved, halved_names

Answer = TypeVar("Answer")
_LONGEST = 200


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
    """Bytes of all messages, down to the sites and up from them, over all sittings of a run."""

    down: int = 0
    up: int = 0


@dataclass(frozen=True)
class Answers(Generic[Answer]):
    """What the asked sites made of one question."""

    found: dict[str, Answer]
    """Site to its answer, in the order asked."""
    missing: dict[str, str]
    """Site to the sentence why it has none."""

    def require(self, quorum: float, what: str) -> None:
        """Return if this fraction of the sites answered, and one at least; otherwise raise QuorumLost."""
        asked = len(self.found) + len(self.missing)
        needed = max(1, ceil(quorum * asked - 1e-9))
        if len(self.found) < needed:
            raise QuorumLost(
                f"{what}: {len(self.found)} of {asked} sites gave a usable answer and {needed} are needed: "
                f"{'; '.join(self.missing.values())}; finished rounds are kept: mend these sites and resume "
                "the run"
            )


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
    trunk: FrozenTrunk | None = None
    """The trunk that sites have of their own and keep as it is; None where it is trained."""
    registered: Mapping[int, str] | None = None
    """Node id to the site whose node it is; None where nodes are believed what they say."""

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
        references: Mapping[str, ArrayRecord] | None = None,
        private: Mapping[str, Mapping[str, Any]] | None = None,
        **values: Any,
    ) -> Iterator[Reply]:
        """Yield one reply for each member, in their order; failures carry a reason that names the site.

        ``references`` and ``private`` values are for one site's eyes only, by its name. ``arrays`` travel as
        the experiment's ``strategy.exchange`` says.
        """
        self.observer.stage(title, [member.name for member in members])
        if arrays is not None:
            arrays = halved(arrays, self.halved_names(arrays))
        requests = []
        for member in members:
            own = (private or {}).get(member.name, {})
            reference = (references or {}).get(member.name)
            requests.append((member, messages.request(self.config(**values, **own), arrays, reference)))
        self.traffic.down += sum(size(content) for _, content in requests)
        deadline = self.experiment.strategy.deadline
        for reply in exchange(
            self.grid, requests, message_type, deadline, self.observer.site, should_stop=self.should_stop
        ):
            if reply.message is not None:
                self.traffic.up += size(reply.message.content)
            yield reply

    def gather(
        self,
        title: str,
        message_type: str,
        members: Sequence[Member],
        arrays: ArrayRecord | None,
        read: Callable[[Message], Answer],
        references: Mapping[str, ArrayRecord] | None = None,
        private: Mapping[str, Mapping[str, Any]] | None = None,
        **values: Any,
    ) -> Answers[Answer]:
        """Return what ``read`` makes of each member's reply.

        A reply that cannot be read counts as missing: it comes from another machine, perhaps another version.
        """
        answers: Answers[Answer] = Answers({}, {})
        for reply in self.ask(title, message_type, members, arrays, references, private, **values):
            name = reply.member.name
            if reply.message is None:
                answers.missing[name] = str(reply.reason)
                continue
            try:
                answers.found[name] = read(reply.message)
            except (ValueError, KeyError, TypeError) as error:
                answers.missing[name] = (
                    f"site {name}: its answer to {message_type} cannot be used ({_brief(error)}); does it "
                    "run the same version of fedderm?"
                )
        return answers

    @property
    def statistics(self) -> frozenset[str]:
        """Return the names of the model's running means and variances."""
        return frozenset(self.folder.state().get("statistics", ()))

    def halved_names(self, arrays: ArrayRecord) -> frozenset[str]:
        """Return which of a model's arrays travel as float16."""
        return halved_names(specs(arrays), self.experiment.strategy.exchange, self.statistics)

    def site_states(self, hyphen: str = "_", just_now: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Return, by site, what it needs to find the state that it kept of its last round that counted.

        ``just_now``: site to a round that counted and is not on disk yet. Empty where the strategy keeps
        nothing at sites. Config records have a ``hyphen`` of ``-`` in their keys.
        """
        return site_states(self.folder, hyphen, just_now)

    def note(self, **facts: Any) -> None:
        """Write facts into ``rounds/state.json``; None takes one out."""
        state = {**self.folder.state(), **facts}
        self.folder.write_state({key: value for key, value in state.items() if value is not None})

    def note_traffic(self) -> None:
        """Write the bytes so far into ``rounds/state.json``."""
        self.note(traffic=asdict(self.traffic))

    def config(self, **values: Any) -> Any:
        """Return the config record that every message of this sitting carries."""
        shared: dict[str, Any] = {"salt": self.salt, "given_up": dict(self.given_up)}
        if self.trunk is not None:
            shared["trunk"] = self.trunk.digest
        if self.experiment.training.privacy is not None and (run := self.folder.state().get("run")):
            shared["run"] = run  # sites account for what it costs them
        return messages.config_record(self.experiment, **{**shared, **values})


def site_states(
    folder: RunFolder, hyphen: str = "_", just_now: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return what ``Session.site_states`` does, from a run's folder alone."""
    if not site_side(folder.experiment.strategy.name).stateful:
        return {}
    state = folder.state()
    counted = {name: entry["round"] for entry in state["history"] for name in entry.get("sites", {})}
    counted |= just_now or {}
    return {
        site.name: {"run": state.get("run", ""), f"state{hyphen}round": counted.get(site.name, 0)}
        for site in folder.experiment.sites
    }


def _brief(error: Exception) -> str:
    text = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())[:_LONGEST]
