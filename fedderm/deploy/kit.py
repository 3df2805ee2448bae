"""A hospital's join kit: made by the coordinator without any secret, completed where the key stays."""

import shutil
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Final

from fedderm.deploy.authority import certificate_fingerprint, read_certificate
from fedderm.deploy.coordinator import Coordinator
from fedderm.deploy.documents import JoinedFile, KitFile, check_name, read_document, versions
from fedderm.deploy.joining import Statement, invitation_of, write_join
from fedderm.deploy.node_key import PrivateKey, read_node_key, write_new_key
from fedderm.deploy.private_files import require_private_folder, write_private
from fedderm.deploy.register import changed_register
from fedderm.deploy.units import supernode_unit
from fedderm.deploy.validity import check_validity
from fedderm.site_file import read_site_file

KIT: Final = "kit.json"


@dataclass(frozen=True)
class Kit:
    """A kit's folder at a hospital."""

    path: Path
    settings: KitFile

    @classmethod
    def open(cls, path: Path) -> "Kit":
        """Return the kit of a folder.

        Raises ValueError where it is none, or its certificate is not the one that it names.
        """
        if not (path / KIT).is_file():
            raise ValueError(
                f"{path}: is no join kit (it has no {KIT}); unpack the file that the coordinator sent and "
                "name its folder"
            )
        settings = read_document(path / KIT, KitFile, "the kit as the coordinator made it")
        kit = cls(path.resolve(), settings)
        found = certificate_fingerprint(read_certificate(kit.authority_file))
        if found != settings.authority:
            raise ValueError(
                f"{kit.authority_file}: is not the certificate that {KIT} names ({found}, not "
                f"{settings.authority}); ask the coordinator for the kit again"
            )
        return kit

    @property
    def authority_file(self) -> Path:
        """Return where the authority's certificate lies."""
        return self.path / "authority.crt"

    @property
    def key_file(self) -> Path:
        """Return where the node's private key lies; it never leaves this machine."""
        return self.path / "node.key"

    @property
    def next_key_file(self) -> Path:
        """Return where a key waits that is to replace the node's, until the server knows it."""
        return self.path / "node.next.key"

    @property
    def join_file(self) -> Path:
        """Return what is sent to the coordinator."""
        return self.path / f"{self.settings.site}.join.json"

    def joined(self) -> JoinedFile:
        """Return what was settled when the key was made; raises ValueError where none was."""
        if not (self.path / "joined.json").is_file():
            raise ValueError(
                f"{self.path}: has no key yet; make one: fedderm deploy join {self.path} --site site.yaml"
            )
        return read_document(self.path / "joined.json", JoinedFile, "what `fedderm deploy join` wrote")

    def join(self, site_file: Path, now: datetime) -> Statement:
        """Make the node's key and the join file; return what that file states.

        A key that answered another kit, such as one that was revoked since, is replaced. Raises ValueError
        where there is a key for this one already, or the site file cannot be used, names another site, or
        names a folder that is not there.
        """
        self._require_name(site_file)
        _require_images(site_file)
        keys = (self.key_file, self.next_key_file)
        if not self._has_answered():
            for one in keys:  # kept until the new key is there
                if one.exists():
                    one.replace(_aside(one))
        if self.key_file.exists():
            raise ValueError(
                f"{self.key_file}: this hospital has its key already; send {self.join_file.name}, or make "
                f"another key: fedderm deploy rotate {self.path}"
            )
        self.path.chmod(0o700)
        key = write_new_key(self.key_file)
        statement = write_join(self.join_file, self.settings, key, now)
        self._settle("joined.json", site_file.resolve(), statement)
        unit = supernode_unit(self.settings.federation, self.path)
        (self.path / "fedderm-supernode.service").write_text(unit, encoding="utf-8")
        for left in (*map(_aside, keys), self.path / "joined.next.json"):
            left.unlink(missing_ok=True)
        return statement

    def rotate(self, now: datetime) -> Statement:
        """Make the key that is to replace the node's, and its join file signed by both.

        The old key serves until the coordinator has registered the new one. Raises ValueError where the old
        one has ended.
        """
        joined, old = self.joined(), self.key()
        check_validity("the node's key", joined.expires, now, "ask the coordinator for a new kit")
        self.next_key_file.unlink(missing_ok=True)
        new = write_new_key(self.next_key_file)
        statement = write_join(self.join_file, self.settings, new, now, replaces=old)
        self._settle("joined.next.json", joined.site_file, statement)
        return statement

    def key(self) -> PrivateKey:
        """Return the node's key; raises ValueError where it is missing or others may read it."""
        require_private_folder(self.path)
        return read_node_key(self.key_file)

    def take_next_key(self) -> None:
        """Put the waiting key in the place of the node's, which the server does not admit any more."""
        self.next_key_file.replace(self.key_file)
        (self.path / "joined.next.json").replace(self.path / "joined.json")

    def site_file(self) -> Path:
        """Return the hospital's site file; raises ValueError where it is unusable or names another site."""
        path = self.joined().site_file
        self._require_name(path)
        return path

    def _has_answered(self) -> bool:
        """Return whether the key here answered this kit's invitation; so too where that is unknown."""
        joined = self.path / "joined.json"
        answered = self.joined().invitation if joined.is_file() else ""
        if not answered and self.join_file.is_file():
            answered = invitation_of(self.join_file)
        return answered in ("", self.settings.invitation)

    def _settle(self, name: str, site_file: Path, statement: Statement) -> None:
        settled = JoinedFile(
            site_file=site_file,
            fingerprint=statement.fingerprint,
            expires=statement.expires,
            invitation=statement.invitation,
        )
        write_private(self.path / name, settled.text().encode(), replace=True)

    def _require_name(self, site_file: Path) -> None:
        site = read_site_file(site_file)
        if site.name != self.settings.site:
            raise ValueError(
                f"{site_file}: the site is called {site.name}, but this kit is for {self.settings.site}; set "
                f"name: {self.settings.site}"
            )


def _aside(key: Path) -> Path:
    return key.with_suffix(".old")


def _require_images(site_file: Path) -> None:
    folder = read_site_file(site_file).path
    if folder is not None and not folder.exists():
        raise ValueError(
            f"{site_file}: path names {folder}, which is not there; say where your images are, and look with "
            f"fedderm sites doctor {site_file}"
        )


def make_kit(coordinator: Coordinator, site: str, now: datetime) -> Path:
    """Return a zip file with the kit for a hospital.

    Raises ValueError where the name is taken.
    """
    check_name("site", site)
    with changed_register(coordinator.register) as register:
        invitation = register.invite(site, now)
        settings = KitFile(
            federation=coordinator.settings.name,
            site=site,
            server=coordinator.address,
            authority=coordinator.settings.authority,
            invitation=invitation.word,
            made=now,
            versions=versions(),
        )
        folder = coordinator.kits / f"{site}-{invitation.word[:8]}" / f"fedderm-{site}"
        folder.mkdir(parents=True)
        (folder / KIT).write_text(settings.text(), encoding="utf-8")
        shutil.copyfile(coordinator.authority_file, folder / "authority.crt")
        for name, written in (("kit_readme.md", "README.md"), ("kit_site.yaml", "site.yaml")):
            (folder / written).write_text(_filled(name, settings), encoding="utf-8")
        packed = coordinator.kits / f"fedderm-{site}.zip"
        packed.unlink(missing_ok=True)
        shutil.make_archive(str(packed.with_suffix("")), "zip", folder.parent, folder.name)
        shutil.rmtree(folder.parent)
    return packed


def _filled(template: str, settings: KitFile) -> str:
    text = resources.files("fedderm.deploy").joinpath(template).read_text(encoding="utf-8")
    host, _, port = settings.server.rpartition(":")
    words = {
        "SITE": settings.site,
        "FEDERATION": settings.federation,
        "HOST": host,
        "PORT": port,
        "AUTHORITY": settings.authority,
        "FEDDERM": settings.versions.fedderm,
        "FLWR": settings.versions.flwr,
    }
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
