"""A private CA and server certificates as tests need them, and a real TLS server on loopback."""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey
Answer = Callable[[socket.socket], None]


class Authority:
    """A CA that signs what it is asked to, for any span of days from now."""

    def __init__(self, folder: Path, name: str = "Test CA", days: tuple[float, float] = (-400, 400)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        certificate = (
            _builder(self._name, self._name, self._key, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, names: tuple[str, ...], days: tuple[float, float] = (-1, 365)) -> tuple[Path, Path]:
        """Return certificate and key files of a server; names that are addresses become addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
        certificate = (
            _builder(_named("server"), self._name, key, days)
            .add_extension(alternatives, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = self._folder / "server.pem", self._folder / "server.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, days: tuple[float, float]
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@contextmanager
def tls_server(files: tuple[Path, Path], protocols: tuple[str, ...] = ("h2",)) -> Iterator[int]:
    """Yield the port of a server that makes TLS handshakes until the block is left."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    if protocols:
        context.set_alpn_protocols(list(protocols))

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    with _listening(answer) as port:
        yield port


@contextmanager
def plain_server(greeting: bytes | None) -> Iterator[int]:
    """Yield the port of a server without TLS: it greets and closes, or (None) stays silent."""

    def answer(connection: socket.socket) -> None:
        if greeting is None:
            while connection.recv(4096):
                pass
        else:
            connection.recv(4096)
            connection.sendall(greeting)

    with _listening(answer) as port:
        yield port


@contextmanager
def _listening(answer: Answer) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    workers: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        # A client that turns away in the middle of a handshake is what these tests are about.
        with connection:
            try:
                answer(connection)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            workers.append(threading.Thread(target=one, args=(connection,), daemon=True))
            workers[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (acceptor, *workers):
            thread.join(timeout=15)
