"""Asking the server, before a SuperNode starts: is it the right one, does it know our key, do versions fit?

Whatever can go wrong with names, certificates, clocks and keys is told here in one sentence.
"""

import json
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pydantic import ValidationError

from fedderm.deploy.documents import Versions, versions
from fedderm.deploy.door import ADMISSION, Admission

_TIMEOUT_S: Final = 20.0
_AHEAD_S, _BEHIND_S = 5.0, 300.0
"""What Flower allows a SuperNode's clock."""

_EXPIRED, _NOT_YET = 10, 9
_UNKNOWN_ISSUERS = (2, 18, 19, 20, 21)
_WRONG_NAME = (62, 64)
"""OpenSSL's verification errors (X509_V_ERR_*)."""


class NotAnswering(ValueError):  # noqa: N818 - what happened, as KeyboardInterrupt is called
    """The server cannot be reached now; trying again later may help."""


def ask_admission(server: str, authority: Path, fingerprint: str) -> Admission:
    """Return the server's answer about a key, once server, clock and versions are found to fit.

    ``server`` is HOST:PORT and ``authority`` the certificate file that vouches for it. Raises ValueError with
    a sentence for whatever does not fit, NotAnswering where nobody answers.
    """
    url = f"https://{server}{ADMISSION}?key={quote(fingerprint, safe='')}"
    context = ssl.create_default_context(cafile=str(authority))
    asked = datetime.now(UTC)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S, context=context) as answer:
            found = Admission.model_validate(json.load(answer))
    except urllib.error.HTTPError as error:
        raise ValueError(_stranger(server, f"HTTP {error.code}")) from error
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ValueError(_stranger(server, "another answer")) from error
    except OSError as error:  # URLError is one, and so is a timeout
        raise _unreachable(server, getattr(error, "reason", error)) from error
    _check_clock((asked - found.now).total_seconds())
    _check_versions(found.versions)
    return found


def _stranger(server: str, found: str) -> str:
    return (
        f"what answers at {server} is no fedderm coordinator ({found}); ask the coordinator for the address "
        "and its version of fedderm"
    )


def _unreachable(server: str, reason: object) -> ValueError:
    host = server.rpartition(":")[0]
    if not isinstance(reason, ssl.SSLCertVerificationError):
        return NotAnswering(
            f"no answer from {server} ({reason}); is the coordinator's server running, and does the firewall "
            "let this machine call it?"
        )
    code = reason.verify_code
    if code == _EXPIRED:
        return ValueError(
            f"the certificate of {server} has ended; ask the coordinator to renew it (fedderm deploy rotate)"
        )
    if code == _NOT_YET:
        return ValueError(f"the certificate of {server} is not valid yet; set this machine's clock")
    if code in _WRONG_NAME:
        return ValueError(
            f"the certificate of {server} is not for the name {host}; ask the coordinator for the kit again"
        )
    if code in _UNKNOWN_ISSUERS:
        return ValueError(
            f"what answers at {server} is not this federation's server: its certificate was signed by "
            "another authority; do not go on, and call the coordinator"
        )
    return ValueError(
        f"the certificate of {server} is refused ({reason.verify_message}); call the coordinator"
    )


def _check_clock(ahead_s: float) -> None:
    if -_BEHIND_S < ahead_s < _AHEAD_S:
        return
    direction = "ahead of" if ahead_s > 0 else "behind"
    raise ValueError(
        f"this machine's clock is {abs(ahead_s):.0f} s {direction} the server's, which then refuses its "
        "calls; set it (timedatectl set-ntp true)"
    )


def _check_versions(server: Versions) -> None:
    here = versions()
    if here != server:
        raise ValueError(
            f"the server runs {server} and this machine {here}; both must be the same: update the older one"
        )
