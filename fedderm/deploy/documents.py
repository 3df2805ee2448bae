"""What is written into a federation's folders, and the one way of reading it back."""

import re
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedderm import __version__

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
"""As a site's name in a config."""


class Document(BaseModel):
    """A JSON file with a fixed set of keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def text(self) -> str:
        """Return the file's content."""
        return self.model_dump_json(indent=1) + "\n"


class Versions(Document):
    """What runs on a machine."""

    fedderm: str
    flwr: str

    def __str__(self) -> str:
        """Return both in words."""
        return f"fedderm {self.fedderm}, Flower {self.flwr}"


class FederationFile(Document):
    """``federation.json`` of the coordinator's folder."""

    name: Name
    hosts: Annotated[tuple[str, ...], Field(min_length=1)]
    port: int
    """Where SuperNodes connect to; open to the hospitals."""
    control_port: int
    """On the loopback only: the coordinator's own commands and the run's server app."""
    authority: str
    """Fingerprint of the authority's certificate."""
    made: datetime


class KitFile(Document):
    """``kit.json`` of a hospital's kit; nothing in it is secret."""

    federation: Name
    site: Name
    server: str
    """HOST:PORT."""
    authority: str
    invitation: str
    """A word for this kit alone; a join file that repeats it is a replay."""
    made: datetime
    versions: Versions


class JoinedFile(Document):
    """``joined.json`` of a hospital's kit, written when its key was made."""

    site_file: Path
    fingerprint: str
    expires: datetime
    invitation: str = ""
    """Of the kit that the key answered; empty in files of before it was kept."""


def check_name(what: str, name: str) -> None:
    """Return if ``name`` can be a federation's or a site's; raises ValueError otherwise."""
    if not re.fullmatch(NAME, name):
        raise ValueError(
            f"{what} {name}: expected at most 64 letters, digits, dots, dashes and underscores, beginning "
            "with a letter or digit"
        )


def versions() -> Versions:
    """Return the versions installed here."""
    return Versions(fedderm=__version__, flwr=version("flwr"))


Read = TypeVar("Read", bound=Document)


def read_document(path: Path, kind: type[Read], what: str) -> Read:
    """Return a file's content; raises ValueError, saying ``what`` was expected, where that is not there."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{path}: is missing; expected {what}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(
            f"{path}: is damaged or of another version ({where}: {first['msg']}); expected {what}"
        ) from error
