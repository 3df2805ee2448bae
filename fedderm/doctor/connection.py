"""The way to the coordinator: its name, its port, and the TLS handshake that a node would make.

Nothing is sent but the handshake. What a refused certificate says of itself is read with a second one that
verifies nothing, so that the sentence can name it.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from fedderm.doctor.findings import Finding, Level

PATIENCE: Final = 10.0
"""Seconds for a connection, and for each step of a handshake."""

SOON: Final = timedelta(days=30)

# X509_V_ERR_..., of OpenSSL's x509_vfy.h
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME: Final = (62, 64)
_OTHER_SIGNER: Final = (2, 7, 18, 19, 20, 21)


@dataclass(frozen=True)
class Coordinator:
    """Where the coordinator's server listens, and whose signature its certificate must bear."""

    host: str
    port: int
    ca: Path | None
    """PEM file of the coordinator's own CA; None: those that this machine trusts."""

    @classmethod
    def parse(cls, address: str, ca: Path | None) -> Self:
        """Return the coordinator of ``HOST:PORT`` (an IPv6 address in brackets); raises ValueError."""
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
            raise ValueError(
                f"--coordinator {address}: expected HOST:PORT, such as fed.example.org:9092, as your join "
                "kit says"
            )
        return cls(host, int(port), ca)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class _Certificate:
    names: tuple[str, ...]
    issuer: str
    begins: datetime
    ends: datetime

    @classmethod
    def of(cls, found: x509.Certificate) -> Self:
        """Return what is told of a certificate; one without alternative names has none."""
        try:
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            told = tuple(str(name.value) for name in names)
        except x509.ExtensionNotFound:
            told = ()
        return cls(told, found.issuer.rfc4514_string(), found.not_valid_before_utc, found.not_valid_after_utc)


def examine_connection(coordinator: Coordinator, patience: float = PATIENCE) -> Finding:
    """Return whether a node here could reach the coordinator: what stands in the way, and who can mend it."""
    try:
        return _handshake(coordinator, _context(coordinator), patience)
    except _InTheWay as found:
        return Finding("stops", "coordinator", f"coordinator {coordinator}: {found}")


class _InTheWay(Exception):  # noqa: N818 - a sentence, caught in this file
    pass


def _context(coordinator: Coordinator) -> ssl.SSLContext:
    ca = coordinator.ca
    if ca is None:
        context = ssl.create_default_context()
    else:
        _check_ca(ca)
        context = ssl.create_default_context(cafile=str(ca))
    # gRPC, which nodes speak, does not ask for what RFC 5280 asks of a private CA beyond its signature.
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    return context


def _check_ca(ca: Path) -> None:
    try:
        found = x509.load_pem_x509_certificates(ca.read_bytes())
    except OSError as error:
        raise _InTheWay(f"the CA file {ca} cannot be read ({error.strerror}); give the join kit's") from None
    except ValueError:
        raise _InTheWay(f"{ca} holds no certificate (PEM text); give the join kit's CA file") from None
    now = datetime.now(UTC)
    for one in found:
        if now > one.not_valid_after_utc:
            raise _InTheWay(
                f"the CA certificate in {ca} expired on "
                f"{one.not_valid_after_utc:%Y-%m-%d}{_by_our_clock(now)}; ask the coordinator for the new one"
            )


def _handshake(coordinator: Coordinator, context: ssl.SSLContext, patience: float) -> Finding:
    with _connected(coordinator, patience) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=coordinator.host) as secured:
                version = secured.version()
                der = secured.getpeercert(binary_form=True)
        except ssl.SSLCertVerificationError as error:
            raise _InTheWay(_distrusted(coordinator, error, patience)) from None
        except (ssl.SSLError, OSError) as error:
            raise _InTheWay(_no_handshake(error, patience)) from None
    certificate = _Certificate.of(x509.load_der_x509_certificate(der or b""))
    level, more = _remarks(certificate)
    signer = f"the CA in {coordinator.ca}" if coordinator.ca else "a CA that this machine trusts"
    return Finding(
        level,
        "coordinator",
        f"coordinator {coordinator}: {version}, its certificate is signed by {signer} and valid until "
        f"{certificate.ends:%Y-%m-%d}{more}",
    )


def _remarks(certificate: _Certificate) -> tuple[Level, str]:
    left = certificate.ends - datetime.now(UTC)
    if left < SOON:
        return "look", f", {left.days} days from now; ask the coordinator to renew it"
    return "fine", ""


@contextmanager
def _connected(coordinator: Coordinator, patience: float) -> Iterator[socket.socket]:
    host, port = coordinator.host, coordinator.port
    try:
        plain = socket.create_connection((host, port), patience)
    except socket.gaierror:
        raise _InTheWay(
            f"the name {host} is not known here; check its spelling, or ask your network's people (DNS)"
        ) from None
    except ConnectionRefusedError:
        raise _InTheWay(
            f"{host} refuses connections to port {port}: no server listens there, or a firewall turns you "
            "away; ask the coordinator whether it runs, then your network's people"
        ) from None
    except TimeoutError:
        raise _InTheWay(
            f"no answer within {patience:g} s; ask your network's people to let this machine open "
            f"connections to TCP port {port} of {host}"
        ) from None
    except OSError as error:
        raise _InTheWay(f"cannot be reached ({error.strerror or error}); check the network") from None
    with plain:
        yield plain


def _no_handshake(error: OSError, patience: float) -> str:
    if isinstance(error, TimeoutError):
        return (
            f"the port is open but answers no TLS handshake within {patience:g} s; ask the coordinator "
            "whether this is the right port"
        )
    reason = getattr(error, "reason", None) or ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return (
            "what answers there speaks no TLS; ask the coordinator for the port, and whether TLS is switched "
            "on"
        )
    if isinstance(error, ssl.SSLEOFError | ConnectionError) or "EOF" in reason:
        return (
            "the connection is closed during the TLS handshake; ask your network's people whether a firewall "
            "or proxy inspects it, and the coordinator for the port"
        )
    return f"the TLS handshake fails ({' '.join(str(error).split())}); show this to the coordinator"


def _distrusted(coordinator: Coordinator, error: ssl.SSLCertVerificationError, patience: float) -> str:
    """Return why a certificate is refused, with what it says of itself."""
    shown, now = _shown(coordinator, patience), datetime.now(UTC)
    signer = f"the CA in {coordinator.ca}" if coordinator.ca else "a CA that this machine trusts"
    code = error.verify_code
    if code in _OTHER_NAME:
        names = ", ".join(shown.names) if shown else ""
        return (
            f"its certificate is for {names or 'no name at all'}, not for {coordinator.host}; use one of "
            "these names, or ask the coordinator for a certificate with this one"
        )
    if code in _OTHER_SIGNER:
        issuer = f" but by {shown.issuer}" if shown else ""
        return (
            f"its certificate is not signed by {signer}{issuer}; get the CA file anew from the coordinator, "
            "and if that does not help, ask your network's people whether a proxy opens TLS connections"
        )
    if code == _EXPIRED:
        when = f" on {shown.ends:%Y-%m-%d}" if shown else ""
        return f"its certificate expired{when}{_by_our_clock(now)}; ask the coordinator to renew it"
    if code == _NOT_YET_VALID:
        when = f"begins on {shown.begins:%Y-%m-%d %H:%M} UTC" if shown else "has not begun"
        return f"its certificate {when}{_by_our_clock(now)}; set this machine's clock"
    return f"its certificate is refused ({error.verify_message}); show this to the coordinator"


def _by_our_clock(now: datetime) -> str:
    return f" (by this machine's clock it is {now:%Y-%m-%d %H:%M} UTC)"


def _shown(coordinator: Coordinator, patience: float) -> _Certificate | None:
    """Return the certificate that the server shows, trusted or not; nothing is sent over this connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((coordinator.host, coordinator.port), patience) as plain,
            context.wrap_socket(plain, server_hostname=coordinator.host) as secured,
        ):
            return _Certificate.of(
                x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
            )
    except (OSError, ValueError):
        return None
