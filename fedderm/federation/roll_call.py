"""Who is there: every node introduces its site, before anything is trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Message

from fedderm import __version__, messages
from fedderm.budget import image_updates
from fedderm.federation.session import Session
from fedderm.untaught import Untaught
from sites.metadata import unknown_sentence
from sites.salted import overlaps
from strategies.catalogue import site_side
from strategies.exchange import Member, wait_for_nodes


@dataclass(frozen=True)
class SiteCard:
    """A site as it introduced itself."""

    member: Member
    role: str
    details: Mapping[str, Any]
    """Counts by split and diagnosis (small cells hidden), what its images teach, notes."""


def roll_call(session: Session) -> list[SiteCard]:
    """Return the cards of all sites, in the experiment's order; unlisted ones after, by name.

    Raises ValueError where a site cannot start (with its own sentence), where two share a name, and where two
    hold the same lesions or images.
    """
    strangers = _nodes(session)
    ids = {member.name: member.node_id for member in strangers}
    answers = session.gather("roll call", messages.QUERY, strangers, None, _read)
    if answers.missing:
        raise ValueError("; ".join(_said(node, text) for node, text in answers.missing.items()))
    cards: list[SiteCard] = []
    fingerprints: dict[str, dict[str, list[str]]] = {}
    for stranger, (details, prints) in answers.found.items():
        name = str(details["name"])
        if session.registered is not None and name != stranger:
            raise ValueError(
                f"the site registered as {stranger} calls itself {name}; have it correct the name in its "
                "site file"
            )
        if name in fingerprints:
            raise ValueError(f"two nodes call themselves {name}; give each site its own name")
        fingerprints[name] = prints
        member = Member(ids[stranger], name, details["num_examples"], details.get("effective"))
        cards.append(SiteCard(member, str(details["role"]), details))
    _refuse_overlaps(fingerprints)
    _tell_roles(session, cards)
    for card in cards:
        if lacking := card.details.get("without"):
            session.observer.warn(unknown_sentence(card.member.name, lacking))
    order = {site.name: position for position, site in enumerate(session.experiment.sites)}
    strategy = session.experiment.strategy.name
    unlisted = sorted(set(fingerprints) - set(order))
    if unlisted and site_side(strategy).stateful:
        raise ValueError(
            f"{unlisted[0]} is no site of this experiment, and strategy {strategy} has to know which site "
            "keeps what; list it in the config, under the name that its site file gives it"
        )
    return sorted(cards, key=lambda card: (order.get(card.member.name, len(order)), card.member.name))


def _tell_roles(session: Session, cards: Sequence[SiteCard]) -> None:
    """Warn of a site that takes part in another role than the config gives it: the hospital decides."""
    wanted = {site.name: site.role for site in session.experiment.sites}
    for card in cards:
        name = card.member.name
        if wanted.get(name, card.role) != card.role:
            session.observer.warn(
                f"site {name} takes part with role: {card.role}, as its own site file says, and not with "
                f"role: {wanted[name]} of the config; change the config, or ask the hospital"
            )


def _said(node: str, text: str) -> str:
    """Return why a node did not introduce itself: the site's own sentence names it, any other the node."""
    said = text.removeprefix(f"site {node}: ")
    return said if said.startswith("site ") else f"{node}: {said}"


def _read(message: Message) -> tuple[dict[str, Any], dict[str, list[str]]]:
    details, prints = messages.read_card(message)
    if (found := details.get("fedderm", "of a version that it does not tell")) != __version__:
        raise ValueError(f"it runs fedderm {found}, the server {__version__}: update the older one")
    missing = {"name", "role", "num_examples"} - details.keys()
    if missing or details["role"] not in ("train", "held-out"):
        raise ValueError(f"its card lacks {', '.join(sorted(missing)) or 'a role that exists'}")
    images, effective = details["num_examples"], details.get("effective", 1.0)
    if type(images) is not int or images < 0:
        raise ValueError(f"its number of training images is {images!r}")
    if not _are_names(details.get("without", [])):
        raise ValueError("its card does not say which metadata it lacks")
    if not _is_taught(details.get("taught")):
        raise ValueError("its card does not say what its images teach")
    if type(effective) not in (int, float) or not math.isfinite(effective) or effective < 0:
        raise ValueError(f"its effective number of images is {effective!r}")
    return details, prints


def teaching(session: Session, cards: Sequence[SiteCard]) -> list[SiteCard]:
    """Return the sites that the model learns from, which also set its threshold: the training sites, or the
    local baseline's one.

    Raises ValueError where none of them joined.
    """
    alone = session.experiment.baseline_site
    found = [card for card in cards if card.role == "train" and alone in (None, card.member.name)]
    if not found:
        who = "no site that joined" if alone is None else f"no site called {alone} that joined"
        raise ValueError(f"{who} has role: train; at least one must train")
    return found


def untaught(session: Session, cards: Sequence[SiteCard]) -> Untaught:
    """Return what the model has heads for and no site teaches. Raises ValueError as ``teaching`` does."""
    taught = (card.details["taught"] for card in teaching(session, cards))
    return Untaught.at(session.experiment.model, taught)


def _is_taught(found: Any) -> bool:
    """Return whether this is names by kind, as a site's card has them."""
    return isinstance(found, dict) and all(map(_are_names, found.values()))


def _are_names(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(name, str) for name in found)


def baseline_budget(session: Session, cards: Sequence[SiteCard]) -> dict[str, Any]:
    """Return what ``train`` messages say of a baseline: whether images are pooled, and, for either baseline,
    how many image updates a round of the whole federation takes."""
    experiment = session.experiment
    if experiment.baseline == "none":
        return {"pooled": False}
    sizes = [card.member.num_examples for card in cards if card.role == "train"]
    updates = image_updates(sizes, experiment.training, experiment.strategy.fraction)
    return {"pooled": experiment.baseline == "pooled", "image_updates": updates}


def training_members(session: Session, cards: Sequence[SiteCard]) -> list[Member]:
    """Return who is sent ``train``: the training sites, or the one node that trains on all their images."""
    members = [card.member for card in teaching(session, cards)]
    if session.experiment.baseline == "pooled":
        images = sum(member.num_examples for member in members)
        return [Member(members[0].node_id, "(pooled)", images, float(images))]
    return members


def _nodes(session: Session) -> list[Member]:
    """Return the nodes, once as many are connected as the experiment lists sites, or, where it is known whose
    they are, once its sites' are.
    """
    listed = [site.name for site in session.experiment.sites]
    wanted = None
    if session.registered is not None:
        wanted = {node: name for node, name in session.registered.items() if name in listed}
        session.observer.stage("wait for the nodes", listed)
    deadline = session.experiment.strategy.deadline
    nodes = wait_for_nodes(session.grid, len(listed), deadline, session.should_stop, wanted)
    if wanted is not None:
        return [Member(node, wanted[node], 0) for node in nodes]
    if len(nodes) > len(listed):
        raise ValueError(
            f"{len(nodes)} nodes are connected but the experiment lists {len(listed)} sites; start as many "
            "nodes as sites"
        )
    return [Member(node, f"node {position + 1}", 0) for position, node in enumerate(nodes)]


def _refuse_overlaps(fingerprints: Mapping[str, Mapping[str, list[str]]]) -> None:
    found = overlaps(fingerprints)
    if found:
        shown = "; ".join(str(one) for one in found[:3])
        raise ValueError(
            f"{len(found)} pairs of sites hold the same lesions or images: {shown}; let one site give way "
            "(gives_way_to), or remove them there"
        )
