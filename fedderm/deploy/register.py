"""Who may take part: ``register.json`` of the coordinator's folder, which the server's door reads.

A key is admitted while it is registered, not revoked and not ended. Names are unique whatever their letter
case; an invitation and a key are good for one registration ever.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from pydantic import ConfigDict, Field

from fedderm.deploy.documents import Document, Name, read_document
from fedderm.deploy.joining import Statement
from fedderm.deploy.private_files import write_private
from fedderm.deploy.validity import day


class Invitation(Document):
    """One kit."""

    site: Name
    word: str
    made: datetime
    used_by: str | None = None
    """Fingerprint of the key that was registered with it."""
    withdrawn: datetime | None = None

    @property
    def open(self) -> bool:
        """Whether a key may be registered with it."""
        return self.used_by is None and self.withdrawn is None


class NodeKey(Document):
    """One key that is or was registered."""

    site: Name
    fingerprint: str
    public_key: str
    registered: datetime
    expires: datetime
    node_id: int | None = None
    """Flower's id of the node; None until a SuperLink has heard of it."""
    revoked: datetime | None = None
    reason: str = ""


class Verdict(NamedTuple):
    """Whether a key is admitted, and the sentence that says so."""

    admitted: bool
    sentence: str


class Register(Document):
    """All invitations and keys, the oldest first."""

    model_config = ConfigDict(extra="forbid", frozen=False)

    invitations: list[Invitation] = Field(default_factory=list)
    keys: list[NodeKey] = Field(default_factory=list)

    def invite(self, site: str, now: datetime) -> Invitation:
        """Return a new invitation; raises ValueError where the name is taken."""
        current = self.current(site)
        if current is not None:
            raise ValueError(
                f"{current.site} has joined already (key {current.fingerprint}, since "
                f"{day(current.registered)}); give another hospital another name, or revoke this one first"
            )
        waiting = next((one for one in self.invitations if one.open and _same(one.site, site)), None)
        if waiting is not None:
            raise ValueError(
                f"there is a kit for {waiting.site} since {day(waiting.made)} that nobody has joined with; "
                f"send that one, give another hospital another name, or withdraw it (fedderm deploy revoke)"
            )
        invitation = Invitation(site=site, word=secrets.token_hex(16), made=now)
        self.invitations.append(invitation)
        return invitation

    def admit(self, statement: Statement, now: datetime) -> NodeKey:
        """Register the key of a statement whose signatures hold, and return it.

        Raises ValueError for a replay, a name that is taken, and an invitation that is not this kit's.
        """
        known = next((key for key in self.keys if key.fingerprint == statement.fingerprint), None)
        if known is not None:
            when = f"on {day(known.registered)}" + (
                f" and revoked on {day(known.revoked)}" if known.revoked else ""
            )
            raise ValueError(
                f"the key {known.fingerprint} of {known.site} was registered {when}; a join file counts once"
            )
        if statement.replaces is not None:
            self._replace(statement, now)
        else:
            self._use_invitation(statement)
        key = NodeKey(
            site=statement.site,
            fingerprint=statement.fingerprint,
            public_key=statement.public_key,
            registered=now,
            expires=statement.expires,
        )
        self.keys.append(key)
        return key

    def revoke(self, site: str, now: datetime, reason: str) -> list[str]:
        """Revoke a site's key and withdraw its open kit; return what was done, in words.

        Raises ValueError where there is neither.
        """
        done = []
        for position, key in enumerate(self.keys):
            if key.revoked is None and _same(key.site, site):
                self.keys[position] = key.model_copy(update={"revoked": now, "reason": reason})
                done.append(f"key {key.fingerprint} of {key.site} is revoked")
        for position, invitation in enumerate(self.invitations):
            if invitation.open and _same(invitation.site, site):
                self.invitations[position] = invitation.model_copy(update={"withdrawn": now})
                done.append(f"the kit for {invitation.site} is withdrawn")
        if not done:
            names = sorted({key.site for key in self.keys if key.revoked is None})
            raise ValueError(
                f"{site} has no key and no kit here; there are {', '.join(names) or 'no sites yet'}"
            )
        return done

    def current(self, site: str) -> NodeKey | None:
        """Return a site's key that is not revoked."""
        return next((key for key in self.keys if key.revoked is None and _same(key.site, site)), None)

    def judge(self, fingerprint: str, now: datetime) -> Verdict:
        """Return whether a key may take part, with a sentence for the hospital."""
        key = next((one for one in self.keys if one.fingerprint == fingerprint), None)
        if key is None:
            return Verdict(
                False,
                f"the key {fingerprint} is not registered; send the join file to the coordinator and wait "
                "for the answer",
            )
        if key.revoked is not None:
            why = f" ({key.reason})" if key.reason else ""
            return Verdict(
                False, f"the key of {key.site} was revoked on {day(key.revoked)}{why}; call the coordinator"
            )
        if now >= key.expires:
            return Verdict(
                False,
                f"the key of {key.site} ended on {day(key.expires)}; ask the coordinator for a new kit and "
                "join anew",
            )
        return Verdict(True, f"{key.site} is registered until {day(key.expires)}")

    def _replace(self, statement: Statement, now: datetime) -> None:
        old = self.current(statement.site)
        if old is None or old.fingerprint != statement.replaces:
            raise ValueError(
                f"{statement.site} wants to replace the key {statement.replaces}, which is not its key here; "
                "make it a new kit"
            )
        if now >= old.expires:
            raise ValueError(
                f"the key of {old.site} ended on {day(old.expires)} and cannot vouch for another; revoke it "
                "and make a new kit"
            )
        self.revoke(old.site, now, f"replaced by {statement.fingerprint}")

    def _use_invitation(self, statement: Statement) -> None:
        taken = self.current(statement.site)
        if taken is not None:
            raise ValueError(
                f"{taken.site} has joined already with the key {taken.fingerprint}: two hospitals have one "
                "name, or one hospital joined twice; call both, and make another kit under another name"
            )
        for position, invitation in enumerate(self.invitations):
            if invitation.word == statement.invitation and _same(invitation.site, statement.site):
                if not invitation.open:
                    what = "withdrawn" if invitation.withdrawn else f"used by the key {invitation.used_by}"
                    raise ValueError(f"the kit of {statement.site} was {what}; make the hospital a new one")
                used = invitation.model_copy(update={"used_by": statement.fingerprint})
                self.invitations[position] = used
                return
        raise ValueError(f"no kit was made here for {statement.site}; make one (fedderm deploy kit)")


class _Known(NamedTuple):
    stamp: tuple[int, int, int]
    register: Register


def read_register(path: Path) -> Register:
    """Return the register of a file; raises ValueError where it is missing or damaged."""
    return read_document(path, Register, "the federation's register; put it back from your backup")


def node_names(path: Path) -> dict[int, str]:
    """Return Flower's ids of the nodes that are registered now, and whose they are."""
    now = datetime.now(UTC)
    return {
        key.node_id: key.site
        for key in read_register(path).keys
        if key.node_id is not None and key.revoked is None and now < key.expires
    }


@contextmanager
def changed_register(path: Path) -> Iterator[Register]:
    """Yield the register and write it back, whole, unless an exception is raised; one command at a time."""
    with FileLock(path.with_suffix(".lock"), mode=0o600):
        register = read_register(path)
        yield register
        write_private(path, register.text().encode(), replace=True)


class LiveRegister:
    """The register as it is on disk now: read again whenever the file was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: _Known | None = None

    def judge(self, fingerprint: str, now: datetime) -> Verdict:
        """Return whether a key may take part now."""
        return self._now().judge(fingerprint, now)

    def _now(self) -> Register:
        found = self._path.stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._known is None or self._known.stamp != stamp:
            self._known = _Known(stamp, read_register(self._path))
        return self._known.register


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()
