"""A hospital's key, made where it stays: EC P-384 in OpenSSH format, as Flower's SuperNode wants it."""

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedderm.deploy.private_files import read_private, write_private

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey
_SIGNED_WITH = ec.ECDSA(hashes.SHA384())


def write_new_key(path: Path) -> PrivateKey:
    """Make a key, write it to ``path`` for its owner alone, and return it."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
    )
    return key


def read_node_key(path: Path) -> PrivateKey:
    """Return the key of a file; raises ValueError where it is missing, damaged or open to others."""
    content = read_private(path, "the node's private key")
    try:
        key = serialization.load_ssh_private_key(content, password=None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path}: is no private key in OpenSSH format; put it back, or join anew") from error
    if not isinstance(key, PrivateKey):
        raise ValueError(f"{path}: is no EC key, which Flower asks for; put it back, or join anew")
    return key


def public_text(key: PublicKey) -> str:
    """Return a public key as one line of OpenSSH's."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def public_key_of(text: str) -> PublicKey:
    """Return the public key of :func:`public_text`; raises ValueError for any other text or kind of key."""
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("holds no public key in OpenSSH format") from error
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError("holds a key that is not on the curve P-384")
    return key


def flower_bytes(key: PublicKey) -> bytes:
    """Return a public key as Flower stores it and as SuperNodes send it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: PublicKey) -> str:
    """Return what ``ssh-keygen -l`` prints of a public key: ``SHA256:`` and 43 letters."""
    blob = base64.b64decode(public_text(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def signature(key: PrivateKey, text: str) -> str:
    """Return a signature of ``text`` in base64."""
    return base64.b64encode(key.sign(text.encode(), _SIGNED_WITH)).decode()


def is_signed(key: PublicKey, text: str, signed: str) -> bool:
    """Return whether ``signed`` is the signature of ``text`` by the private half of ``key``."""
    try:
        key.verify(base64.b64decode(signed, validate=True), text.encode(), _SIGNED_WITH)
    except (InvalidSignature, ValueError):
        return False
    return True
