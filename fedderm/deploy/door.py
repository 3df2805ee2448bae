"""The server's door to the outside: what hospitals need, for keys that are registered now, and nothing else.

Flower 1.41 serves three interfaces at one port: for SuperNodes (Fleet), for whoever starts runs (Control) and
for the processes that carry them out (Runtime). The latter two know no passwords: who reaches them can start
a run, that is, code of their own on the server and at every hospital. Outside, therefore, only Fleet's calls
exist. Flower checks there that a caller holds the private key which it names; this door asks the register
whether that key may take part at this moment.
"""

import base64
import json
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedderm.deploy.documents import Document, Versions, versions
from fedderm.deploy.node_key import PublicKey, fingerprint
from fedderm.deploy.register import LiveRegister, Verdict

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ADMISSION: Final = "/v1/fedderm/admission"
"""GET, with ``?key=`` a fingerprint: whether that key is admitted, and what the server runs."""

FLEET: Final = frozenset(
    f"/v1/fleet/{call}"
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
"""What a registered SuperNode calls. Registering is not among them: that is the coordinator's."""

_KEY_HEADER: Final = b"flwr-public-key"


class Admission(Document):
    """The answer to ADMISSION."""

    admitted: bool
    sentence: str
    versions: Versions
    now: datetime
    """The server's clock: Flower refuses calls whose time differs too much."""
    heard: datetime | None = None
    """When the key's node called last, since the server started."""


class Door:
    """An ASGI application in front of the SuperLink's."""

    def __init__(self, inside: App, register: LiveRegister) -> None:
        self._inside = inside
        self._register = register
        self._versions = versions()
        self._heard: dict[str, datetime] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a call in, or answer why not."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if scope["method"] == "GET" and path == ADMISSION:
            await self._tell_admission(scope, send)
        elif scope["method"] != "POST" or path not in FLEET:
            await answer(send, 404, {"detail": "there is nothing here"})
        else:
            key, verdict = self._judge(scope)
            if verdict.admitted:
                await self._inside(scope, receive, self._hearing(key, send))
            else:
                # 401 is what ends a SuperNode that is connected, with its next heartbeat.
                await answer(send, 401, {"detail": verdict.sentence})

    async def _tell_admission(self, scope: Scope, send: Send) -> None:
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("key", [""])[0]
        now = datetime.now(UTC)
        verdict = self._register.judge(asked, now)
        heard = self._heard.get(asked)
        told = Admission(**verdict._asdict(), versions=self._versions, now=now, heard=heard)
        await answer(send, 200, told.model_dump(mode="json"))

    def _hearing(self, key: str, send: Send) -> Send:
        """Return ``send``, which notes that the key's node called once its signature was found good."""

        async def noting(part: MutableMapping[str, Any]) -> None:
            """Note when the node was heard, unless its signature was refused."""
            if part["type"] == "http.response.start" and part["status"] != 401:
                self._heard[key] = datetime.now(UTC)
            await send(part)

        return noting

    def _judge(self, scope: Scope) -> tuple[str, Verdict]:
        """Return the fingerprint of a call's key, and whether it may come in."""
        values = [value for name, value in scope["headers"] if name == _KEY_HEADER]
        try:
            (value,) = values
            key = load_pem_public_key(base64.b64decode(value, validate=True))
        except ValueError:
            return "", Verdict(False, "the call carries no key; expected a SuperNode with a registered one")
        if not isinstance(key, PublicKey):
            return "", Verdict(False, "the call's key is no EC key")
        found = fingerprint(key)
        return found, self._register.judge(found, datetime.now(UTC))


async def answer(send: Send, status: int, content: dict[str, Any]) -> None:
    """Send a JSON answer."""
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
