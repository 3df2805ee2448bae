"""The join file: a hospital's public key, and proof that whoever sends it holds the private one.

The statement is signed as it stands in the file. It names the federation's authority, the kit's invitation
and the date, so that a file which was altered, kept for later or meant for another federation is refused. A
key that replaces another carries the old key's signature too, and needs no telephone.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from fedderm.deploy.documents import Document, KitFile, Name, Versions, read_document, versions
from fedderm.deploy.node_key import (
    PrivateKey,
    PublicKey,
    fingerprint,
    is_signed,
    public_key_of,
    public_text,
    signature,
)
from fedderm.deploy.validity import CLOCKS, NODE, day

FRESH: Final = timedelta(days=14)
"""How old a join file may be when it is registered."""


class Statement(Document):
    """What the hospital says and signs."""

    federation: Name
    authority: str
    site: Name
    invitation: str
    public_key: str
    fingerprint: str
    written: datetime
    expires: datetime
    replaces: str | None
    """Fingerprint of the key that this one takes the place of."""
    versions: Versions

    def key(self) -> PublicKey:
        """Return the public key; raises ValueError where it is none or not the fingerprint's."""
        key = public_key_of(self.public_key)
        if fingerprint(key) != self.fingerprint:
            raise ValueError("names a fingerprint that is not its key's")
        return key


class JoinFile(Document):
    """The statement, as signed, and its signatures in base64."""

    statement: str
    signature: str
    replaced_signature: str | None


def write_join(
    path: Path, kit: KitFile, key: PrivateKey, now: datetime, replaces: PrivateKey | None = None
) -> Statement:
    """Write the join file for ``key`` and return what it states."""
    statement = Statement(
        federation=kit.federation,
        authority=kit.authority,
        site=kit.site,
        invitation=kit.invitation,
        public_key=public_text(key.public_key()),
        fingerprint=fingerprint(key.public_key()),
        written=now,
        expires=now + NODE,
        replaces=None if replaces is None else fingerprint(replaces.public_key()),
        versions=versions(),
    )
    text = statement.model_dump_json()
    signed = JoinFile(
        statement=text,
        signature=signature(key, text),
        replaced_signature=None if replaces is None else signature(replaces, text),
    )
    path.write_text(signed.text(), encoding="utf-8")
    return statement


def invitation_of(path: Path) -> str:
    """Return the invitation that a join file of one's own answers, without proving anything of it.

    Raises ValueError where it is damaged.
    """
    file = read_document(path, JoinFile, "the join file that `fedderm deploy join` wrote")
    try:
        return Statement.model_validate_json(file.statement).invitation
    except ValidationError as error:
        raise ValueError(f"{path}: its statement cannot be read; move it away and join anew") from error


def read_join(path: Path, authority: str, now: datetime, replaced: PublicKey | None = None) -> Statement:
    """Return what a join file states, once all that can be proved of it is.

    ``replaced``: the key that the site has now, where the file is to replace it. Raises ValueError for a file
    that was altered, is too old, comes from the future, or was made for another federation.
    """
    file = read_document(path, JoinFile, "the join file that `fedderm deploy join` wrote")
    try:
        statement = Statement.model_validate_json(file.statement)
        key = statement.key()
    except ValidationError as error:
        raise ValueError(
            f"{path}: its statement cannot be read; update fedderm on both sides to the same version"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}; ask the hospital for it again") from error
    altered = f"{path}: was altered on its way (%s does not fit); refuse it and call the hospital"
    if not is_signed(key, file.statement, file.signature):
        raise ValueError(altered % "its signature")
    if replaced is not None and not is_signed(replaced, file.statement, file.replaced_signature or ""):
        raise ValueError(altered % "the signature of the key it replaces")
    if statement.authority != authority:
        raise ValueError(
            f"{path}: was made for another federation ({statement.federation}); send the hospital a kit of "
            "this one"
        )
    if now - statement.written > FRESH:
        raise ValueError(
            f"{path}: was written on {day(statement.written)}, more than {FRESH.days} days ago; ask the "
            "hospital to join anew"
        )
    if statement.written - now > CLOCKS:
        raise ValueError(
            f"{path}: was written in the future ({statement.written:%Y-%m-%d %H:%M} UTC); set the clocks "
            "of both machines"
        )
    if statement.expires - statement.written > NODE or statement.expires <= now:
        raise ValueError(
            f"{path}: its key would hold until {day(statement.expires)}; expected at most {NODE.days} days"
        )
    return statement
