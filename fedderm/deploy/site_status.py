"""What a hospital wants to see of its node: does it run, does the server know it, when did it answer last."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from fedderm.deploy.admission import ask_admission
from fedderm.deploy.documents import versions
from fedderm.deploy.kit import Kit
from fedderm.deploy.node_key import fingerprint
from fedderm.deploy.validity import day
from fedderm.hospital.record import Record

_LASTS: Final = timedelta(days=1)


@dataclass(frozen=True)
class NodeStatus:
    """A hospital's node at one moment."""

    fine: bool
    """Whether it is running, the server admits it, and it could answer what it was last asked."""
    sentences: list[str]


@contextmanager
def only_one(kit: Kit) -> Iterator[None]:
    """Hold the kit while its node runs; raises ValueError where another process does."""
    lock = FileLock(_lock(kit), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"{kit.path}: this node is running already; stop the other one first (systemctl stop "
            "fedderm-supernode, or Ctrl-C in its terminal)"
        ) from error
    try:
        yield
    finally:
        lock.release()


def node_status(kit: Kit) -> NodeStatus:
    """Return the node's state, with one call to the server."""
    site, server, joined = kit.settings.site, kit.settings.server, kit.joined()
    running = _is_running(kit)
    started = (
        f"is running; its log: {log_of(kit)}"
        if running
        else f"is not running (fedderm deploy supernode {kit.path})"
    )
    sentences = [f"{site}: the node {started}"]
    try:
        answer = ask_admission(server, kit.authority_file, fingerprint(kit.key().public_key()))
        admitted = answer.admitted
        sentences.append(
            f"the server at {server} admits this key until {day(joined.expires)}; both run {versions()}"
            if admitted
            else f"the server at {server} turns this key away: {answer.sentence}"
        )
    except ValueError as error:
        admitted = False
        sentences.append(str(error))
    answered, told = last_answer(joined.site_file)
    sentences.append(told)
    return NodeStatus(running and admitted and answered, sentences)


def log_of(kit: Kit) -> Path:
    """Return where what the node prints is kept."""
    return kit.path / "log" / "supernode.log"


def _lock(kit: Kit) -> Path:
    return kit.path / "supernode.lock"


def _is_running(kit: Kit) -> bool:
    try:
        with only_one(kit):
            return False
    except ValueError:
        return True


def last_answer(site_file: Path) -> tuple[bool, str]:
    """Return whether the site could answer what it was last asked, and the sentence about it.

    What failed more than a day ago is told, and no longer a fault of now.
    """
    last = None
    for entry in Record.of(site_file).log.entries():
        if entry.get("exchange"):
            last = entry
    if last is None:
        return True, "it has answered nothing yet"
    when = datetime.fromisoformat(last["time"])
    about = f"{last['exchange']} of round {last['round']}" if last.get("round") else str(last["exchange"])
    said = f"its last answer: {about}, {last['what']}, {when:%Y-%m-%d %H:%M} UTC"
    recent = datetime.now(UTC) - when < _LASTS
    failed = last["what"] == "failed" and recent  # a refusal is the policy at work
    why = f": {last.get('detail') or last.get('told')}" if failed else ""
    return not failed, f"{said}{why} (fedderm site log {site_file})"
