"""What a monitoring tool asks of a SuperLink, on the loopback: is it serving, until when, who is connected.

    curl --cacert fed/authority/authority.crt https://127.0.0.1:9093/v1/fedderm/health

200 where hospitals can come in, 503 where they cannot (the open door is not up, the certificate has ended,
the SuperLink does not answer itself). No word about data, runs or keys: whoever is on this machine may read
it.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from fedderm.deploy.authority import read_certificate
from fedderm.deploy.control import control
from fedderm.deploy.coordinator import Coordinator
from fedderm.deploy.documents import Document, Versions, versions
from fedderm.deploy.door import App, Receive, Scope, Send, answer
from fedderm.deploy.node_key import flower_bytes, public_key_of
from fedderm.deploy.register import read_register

HEALTH: Final = "/v1/fedderm/health"


class Health(Document):
    """The answer to HEALTH."""

    serving: bool
    sentence: str
    federation: str
    versions: Versions
    certificate_days_left: int
    sites_registered: int
    sites_connected: int
    now: datetime


class WithHealth:
    """The SuperLink's own application with HEALTH beside it."""

    def __init__(self, inside: App, coordinator: Coordinator, is_open: Callable[[], bool]) -> None:
        self._inside = inside
        self._coordinator = coordinator
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell how it is, or pass the call on."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] != HEALTH:
            await self._inside(scope, receive, send)
            return
        # In a thread: it asks the SuperLink, which is this very process.
        found = await asyncio.to_thread(_health, self._coordinator, self._is_open())
        await answer(send, 200 if found.serving else 503, found.model_dump(mode="json"))


def _health(coordinator: Coordinator, is_open: bool) -> Health:
    now = datetime.now(UTC)
    left = read_certificate(coordinator.server_file).not_valid_after_utc - now
    keys = [
        one for one in read_register(coordinator.register).keys if one.revoked is None and now < one.expires
    ]
    wanted, connected = {flower_bytes(public_key_of(one.public_key)) for one in keys}, 0
    sentence = "hospitals can connect"
    try:
        with control(coordinator) as calls:
            online = {node.public_key for node in calls.nodes() if node.status == "online"}
        connected = len(online & wanted)
    except ValueError as error:
        sentence = str(error)
        is_open = False
    else:
        if not is_open:
            sentence = "the door to the hospitals is not open"
    if left.total_seconds() <= 0:
        is_open, sentence = (
            False,
            f"the server's certificate has ended: fedderm deploy rotate {coordinator.path}",
        )
    return Health(
        serving=is_open,
        sentence=sentence,
        federation=coordinator.settings.name,
        versions=versions(),
        certificate_days_left=left.days,
        sites_registered=len(keys),
        sites_connected=connected,
        now=now,
    )
