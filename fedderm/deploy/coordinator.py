"""The coordinator's folder: the authority, the server's certificate, the register, and where each lies."""

import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from fedderm.deploy.authority import (
    certificate_fingerprint,
    certificate_pem,
    check_host,
    key_pem,
    new_authority,
    new_key,
    new_server_certificate,
    read_certificate,
    read_key,
)
from fedderm.deploy.documents import FederationFile, check_name, read_document
from fedderm.deploy.private_files import (
    new_private_folder,
    read_private,
    require_private_folder,
    write_private,
)
from fedderm.deploy.register import Register
from fedderm.deploy.validity import check_validity

FEDERATION: Final = "federation.json"


@dataclass(frozen=True)
class Coordinator:
    """A coordinator's folder."""

    path: Path
    settings: FederationFile

    @classmethod
    def create(
        cls, path: Path, name: str, hosts: tuple[str, ...], port: int, control_port: int, now: datetime
    ) -> "Coordinator":
        """Make the folder with a new authority and a certificate for the server.

        Raises ValueError where something is there already, or a host is none.
        """
        check_name("--name", name)
        for host in hosts:
            check_host(host)
        if port == control_port:
            raise ValueError(f"--port and --control-port are both {port}; give them two numbers")
        key = new_key()
        authority = new_authority(name, key, now)
        settings = FederationFile(
            name=name,
            hosts=hosts,
            port=port,
            control_port=control_port,
            authority=certificate_fingerprint(authority),
            made=now,
        )
        made = cls(path.resolve(), settings)
        new_private_folder(made.path)
        for folder in (made.authority_key.parent, made.server_key.parent, made.kits, made.flower_home):
            new_private_folder(folder)
        write_private(made.authority_key, key_pem(key))
        made.authority_file.write_bytes(certificate_pem(authority))
        made.renew_server(now)
        write_private(made.path / "control.token", secrets.token_urlsafe(32).encode())
        write_private(made.register, Register().text().encode())
        # Last: a folder without it is not taken for a federation.
        write_private(made.path / FEDERATION, settings.text().encode())
        return made

    @classmethod
    def open(cls, path: Path) -> "Coordinator":
        """Return the folder; raises ValueError where it is none, or others may enter it."""
        if not (path / FEDERATION).is_file():
            raise ValueError(
                f"{path}: is no coordinator's folder (it has no {FEDERATION}); make one with "
                "`fedderm deploy init`"
            )
        require_private_folder(path)
        settings = read_document(path / FEDERATION, FederationFile, "what `fedderm deploy init` wrote")
        return cls(path.resolve(), settings)

    @property
    def authority_key(self) -> Path:
        """Return where the authority's private key lies: the one file that must never be lost or seen."""
        return self.path / "authority" / "authority.key"

    @property
    def authority_file(self) -> Path:
        """Return where the authority's certificate lies, which every kit holds."""
        return self.path / "authority" / "authority.crt"

    @property
    def server_key(self) -> Path:
        """Return where the server's private key lies."""
        return self.path / "server" / "server.key"

    @property
    def server_file(self) -> Path:
        """Return where the server's certificate lies."""
        return self.path / "server" / "server.crt"

    @property
    def register(self) -> Path:
        """Return where the register lies."""
        return self.path / "register.json"

    @property
    def runs(self) -> Path:
        """Return where it is noted which run has which folder."""
        return self.path / "runs.jsonl"

    @property
    def log(self) -> Path:
        """Return where what the SuperLink prints is kept."""
        return self.path / "log" / "superlink.log"

    @property
    def kits(self) -> Path:
        """Return the folder of kits."""
        return self.path / "kits"

    @property
    def database(self) -> Path:
        """Return where the SuperLink keeps its nodes, runs and messages."""
        return self.path / "superlink.sqlite"

    @property
    def flower_home(self) -> Path:
        """Return Flower's own home, with the bundles it unpacks."""
        return self.path / "flower"

    @property
    def address(self) -> str:
        """Return HOST:PORT as a hospital calls it: the first name given."""
        host = self.settings.hosts[0]
        return f"[{host}]:{self.settings.port}" if ":" in host else f"{host}:{self.settings.port}"

    @property
    def control_address(self) -> str:
        """Return HOST:PORT of the coordinator's own door."""
        return f"127.0.0.1:{self.settings.control_port}"

    def control_token(self) -> str:
        """Return the word without which the control door stays shut."""
        return read_private(self.path / "control.token", "the control token").decode()

    def renew_server(self, now: datetime) -> datetime:
        """Give the server a new key and certificate from the same authority; return when it ends."""
        authority = read_certificate(self.authority_file)
        check_validity("the authority's certificate", authority.not_valid_after_utc, now, _NEW_AUTHORITY)
        authority_key = read_key(self.authority_key, "the authority's private key")
        key = new_key()
        certificate = new_server_certificate(authority, authority_key, key, self.settings.hosts, now)
        write_private(self.server_key, key_pem(key), replace=True)
        write_private(self.server_file, certificate_pem(certificate), replace=True)
        return certificate.not_valid_after_utc

    def check(self, now: datetime) -> list[str]:
        """Return warnings of what ends within 30 days.

        Raises ValueError where a certificate has ended, or a key is missing or can be read by others.
        """
        read_key(self.server_key, "the server's private key")
        self.control_token()
        server, authority = read_certificate(self.server_file), read_certificate(self.authority_file)
        found = (
            check_validity(
                "the server's certificate",
                server.not_valid_after_utc,
                now,
                f"renew it: fedderm deploy rotate {self.path}, then start the SuperLink anew",
            ),
            check_validity("the authority's certificate", authority.not_valid_after_utc, now, _NEW_AUTHORITY),
        )
        return [warning for warning in found if warning is not None]


_NEW_AUTHORITY: Final = "make a new federation (fedderm deploy init) and send every hospital a new kit"
