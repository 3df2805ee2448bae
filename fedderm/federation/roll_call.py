"""Who is there: every node introduces its site, before anything is trained."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.serverapp import Grid

from fedderm import messages
from fedderm.federation.session import Session
from sites.salted import overlaps
from strategies.errors import Interrupted
from strategies.exchange import Member


@dataclass(frozen=True)
class SiteCard:
    """A site as it introduced itself."""

    member: Member
    role: str
    details: Mapping[str, Any]
    """Counts by split and diagnosis (small cells hidden), notes."""


def roll_call(session: Session) -> list[SiteCard]:
    """Return the cards of all sites, in the experiment's order; unlisted ones after, by name.

    Raises ValueError where a site cannot start (with its own sentence), where two share a name, and where
    two hold the
    same lesions or images.
    """
    nodes = _wait_for_nodes(session, len(session.experiment.sites))
    strangers = [Member(node, f"node {position + 1}", 0) for position, node in enumerate(nodes)]
    cards: list[SiteCard] = []
    failures: list[str] = []
    fingerprints: dict[str, dict[str, list[str]]] = {}
    for reply in session.ask("roll call", messages.QUERY, strangers, None):
        if reply.message is None:
            failures.append(str(reply.reason).removeprefix(f"site {reply.member.name}: "))
            continue
        details, prints = messages.read_card(reply.message)
        name = str(details["name"])
        if name in fingerprints:
            raise ValueError(f"two nodes call themselves {name}; give each site its own name")
        fingerprints[name] = prints
        member = Member(reply.member.node_id, name, int(details["num_examples"]))
        cards.append(SiteCard(member, str(details["role"]), details))
    if failures:
        raise ValueError("; ".join(sorted(set(failures))))
    _refuse_overlaps(fingerprints)
    order = {site.name: position for position, site in enumerate(session.experiment.sites)}
    return sorted(cards, key=lambda card: (order.get(card.member.name, len(order)), card.member.name))


def training_members(session: Session, cards: Sequence[SiteCard]) -> list[Member]:
    """Return who is sent ``train``: the training sites, or the one node that stands for all in the pooled
    baseline."""
    members = [card.member for card in cards if card.role == "train"]
    if not members:
        raise ValueError("no site that joined has role: train; at least one must train")
    if session.experiment.baseline == "pooled":
        return [Member(members[0].node_id, "(pooled)", sum(member.num_examples for member in members))]
    return members


def _wait_for_nodes(session: Session, expected: int) -> list[int]:
    """Return the ids of the nodes, once as many are connected as the experiment lists sites."""
    limit = time.monotonic() + session.experiment.strategy.deadline
    while len(nodes := _nodes(session.grid)) < expected:
        if session.should_stop():
            raise Interrupted("stopped while waiting for sites to connect; the run can be resumed")
        if time.monotonic() > limit:
            raise ValueError(
                f"{len(nodes)} of {expected} sites are connected after "
                f"{session.experiment.strategy.deadline:g} s; "
                "start the others and resume the run, or lower strategy.deadline to fail sooner"
            )
        time.sleep(0.05)
    if len(nodes) > expected:
        raise ValueError(
            f"{len(nodes)} nodes are connected but the experiment lists {expected} sites; start as many nodes "
            "as sites"
        )
    return nodes


def _nodes(grid: Grid) -> list[int]:
    return sorted(grid.get_node_ids())


def _refuse_overlaps(fingerprints: Mapping[str, Mapping[str, list[str]]]) -> None:
    found = overlaps(fingerprints)
    if found:
        shown = "; ".join(str(one) for one in found[:3])
        raise ValueError(
            f"{len(found)} pairs of sites hold the same lesions or images: {shown}; let one site give way "
            "(gives_way_to), or remove them there"
        )
