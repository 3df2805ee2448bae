"""What a coordinator wants to see: which sites are there, until when, and the latest runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from fedderm.deploy.authority import read_certificate
from fedderm.deploy.control import Control, Node, NotRunning, Run, control
from fedderm.deploy.coordinator import Coordinator
from fedderm.deploy.documents import versions
from fedderm.deploy.history import LastAnswer, last_answers
from fedderm.deploy.node_key import flower_bytes, public_key_of
from fedderm.deploy.register import NodeKey, Register, read_register
from fedderm.deploy.validity import WARN_BEFORE, day

LATEST_RUNS = 5


@dataclass(frozen=True)
class SiteStatus:
    """One line of the table of sites."""

    site: str
    state: str
    since: str
    until: str
    last: str
    """The last round that it answered in."""
    fingerprint: str


@dataclass(frozen=True)
class Status:
    """A federation at one moment."""

    server: str
    sites: list[SiteStatus]
    runs: list[Run]


def status_of(coordinator: Coordinator, now: datetime) -> Status:
    """Return the federation's state; without a running SuperLink what the register alone tells."""
    register = read_register(coordinator.register)
    until = day(read_certificate(coordinator.server_file).not_valid_after_utc)
    nodes: dict[bytes, Node] = {}
    runs: list[Run] = []
    server = f"is running at {coordinator.address}"
    try:
        with control(coordinator) as calls:
            nodes, runs = _asked(calls)
    except NotRunning:
        server = f"is not running (fedderm deploy superlink {coordinator.path})"
    answers = last_answers(coordinator)
    sites = [_of_key(key, nodes, answers, now) for key in register.keys] + _of_kits(register)
    sentence = f"the SuperLink {server} ({versions()}); its certificate holds until {until}"
    return Status(sentence, sites, runs)


def _asked(calls: Control) -> tuple[dict[bytes, Node], list[Run]]:
    return {node.public_key: node for node in calls.nodes()}, calls.runs(LATEST_RUNS)


def _of_key(
    key: NodeKey, nodes: dict[bytes, Node], answers: Mapping[str, LastAnswer], now: datetime
) -> SiteStatus:
    node = nodes.get(flower_bytes(public_key_of(key.public_key)))
    since = "" if node is None else node.since[:16].replace("T", " ")
    state = "registered" if node is None else node.status
    if key.revoked is not None:
        state, since = "revoked", day(key.revoked)
    elif now >= key.expires:
        state, since = "ended", day(key.expires)
    elif key.expires - now <= WARN_BEFORE:
        state += ", ends soon"
    last = str(answers[key.site]) if key.site in answers else ""
    return SiteStatus(key.site, state, since, day(key.expires), last, key.fingerprint)


def _of_kits(register: Register) -> list[SiteStatus]:
    return [
        SiteStatus(one.site, "kit made", day(one.made), "", "", "")
        for one in register.invitations
        if one.open
    ]
