"""The federation's own certificate authority: it vouches for the server, and for nothing else.

Profiles after RFC 5280: the authority signs certificates only; the server's names are subject alternative
names. Keys are P-384, as Flower's own.
"""

import hashlib
import ipaddress
import re
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedderm.deploy.private_files import read_private
from fedderm.deploy.validity import AUTHORITY, CLOCKS, SERVER

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LOOPBACK = ("localhost", "127.0.0.1")
"""Names under which the coordinator's own commands reach the server."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new P-384 key."""
    return ec.generate_private_key(ec.SECP384R1())


def new_authority(name: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """Return the self-signed certificate of the authority of the federation ``name``."""
    subject = _named(f"fedderm federation {name}")
    builder = (
        _certificate(subject, subject, key.public_key(), now, AUTHORITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA384())


def new_server_certificate(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    hosts: tuple[str, ...],
    now: datetime,
) -> x509.Certificate:
    """Return a certificate for a server under the names ``hosts``, never longer than the authority's own.

    Raises ValueError for a host that is neither a DNS name nor an IP address.
    """
    names = [_general_name(host) for host in dict.fromkeys((*hosts, *_LOOPBACK))]
    left = authority.not_valid_after_utc - now
    builder = (
        _certificate(_named(hosts[0]), authority.subject, key.public_key(), now, min(SERVER, left))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
    )
    return builder.sign(authority_key, hashes.SHA384())


def check_host(host: str) -> None:
    """Return if ``host`` is a DNS name or an IP address; raises ValueError otherwise."""
    _general_name(host)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as unencrypted PEM; the file's permissions protect it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_certificate(path: Path) -> x509.Certificate:
    """Return the certificate of a PEM file; raises ValueError where there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the certificate is missing; put it back from your backup") from error
    except ValueError as error:
        raise ValueError(f"{path}: is no certificate in PEM format; put it back from your backup") from error


def read_key(path: Path, what: str) -> ec.EllipticCurvePrivateKey:
    """Return the private key of a PEM file; raises ValueError where it is missing or open to others."""
    content = read_private(path, what)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {what} cannot be read; put it back from your backup") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path}: {what} is no EC key; put it back from your backup")
    return key


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate as pairs of digits, as browsers and OpenSSL print it."""
    digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    length: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS)
        .not_valid_after(now + length)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not _DNS_NAME.fullmatch(host) or re.fullmatch(r"[\d.]+", host):
        raise ValueError(
            f"--host {host}: expected a name such as fed.example.org, or an IP address such as 10.0.0.5, "
            "without a port"
        )
    return x509.DNSName(host)
