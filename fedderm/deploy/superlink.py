"""The coordinator's SuperLink: TLS, authenticated nodes, a database that survives it, and two doors.

Flower's own application serves both. Outside, ``Door`` stands before it; inside, on the loopback, its Control
calls need the folder's token and its Runtime calls the secret of this start. This is the one module that
knows how Flower 1.41 puts a SuperLink together.
"""

import asyncio
import contextlib
import hmac
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import uvicorn
from flwr.common.constant import ACCESS_TOKEN_KEY, ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
from flwr.supercore import sql_mixin
from flwr.supercore.auth.typing import AccountInfo
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from fedderm.deploy.control import OWNER, control
from fedderm.deploy.coordinator import Coordinator
from fedderm.deploy.door import Door
from fedderm.deploy.health import WithHealth
from fedderm.deploy.programs import flower_program, secret_file
from fedderm.deploy.register import LiveRegister

Tell = Callable[[str], None]

_BUSY_MS = 120_000
"""How long a call waits for the database while others write to it. Flower's 5 s are over on a busy machine
while hospitals send their models, and the run with them."""


def serve_superlink(coordinator: Coordinator, tell: Tell) -> None:
    """Serve until SIGTERM or Ctrl-C; ``tell`` is given sentences for whoever watches.

    Raises ValueError where certificates have ended, keys are open to others, or a port is taken.
    """
    for warning in coordinator.check(datetime.now(UTC)):
        tell(f"warning: {warning}")
    os.umask(0o077)
    settings = coordinator.settings
    pragmas = {**dict(sql_mixin.SQLITE_PRAGMAS), "busy_timeout": str(_BUSY_MS)}  # type: ignore[attr-defined]
    sql_mixin.SQLITE_PRAGMAS = tuple(pragmas.items())  # type: ignore[attr-defined,assignment]
    with (
        _listening("127.0.0.1", settings.control_port, "control-port") as inner,
        _listening("", settings.port, "port") as outer,
    ):
        asyncio.run(_serve(coordinator, inner, outer, tell))


async def _serve(coordinator: Coordinator, inner: socket.socket, outer: socket.socket, tell: Tell) -> None:
    secret = secrets.token_bytes(32)
    inside = create_app(_config(coordinator, secret), SuperLinkLifespan)
    open_door = _server(coordinator, Door(inside, LiveRegister(coordinator.register)), lifespan=False)
    told = WithHealth(inside, coordinator, lambda: open_door.started and not open_door.should_exit)
    control_door = _server(coordinator, told, lifespan=True)
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    tasks: list[asyncio.Task[bool]] = [asyncio.create_task(_set(asked_to_stop))]
    try:
        tasks.append(asyncio.create_task(_serve_door(control_door, inner)))
        await _started(control_door, tasks[1])
        with _executor(coordinator, secret):  # ends before the doors: it would call at a shut one
            # Before anybody is let in: a key revoked while the SuperLink was down is gone from it.
            await asyncio.to_thread(_apply_register, coordinator)
            tasks.append(asyncio.create_task(_serve_door(open_door, outer)))
            await _started(open_door, tasks[2])
            name = coordinator.settings.name
            tell(f"federation {name}: open at {coordinator.address} for registered sites; Ctrl-C stops")
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked_to_stop.set()
        control_door.should_exit = open_door.should_exit = True
        await asyncio.wait(tasks)


def _apply_register(coordinator: Coordinator) -> None:
    with control(coordinator) as calls:
        calls.apply_register(coordinator)


def _listening(host: str, port: int, option: str) -> socket.socket:
    """Return a socket at a port; an empty host is every address of this machine, IPv6 too where there is."""
    both = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both, backlog=512)
    except OSError as error:
        outside = " and send the hospitals the new address" if option == "port" else ""
        raise ValueError(
            f"port {port} cannot be opened ({error.strerror}); stop the program that has it (perhaps this "
            f"SuperLink runs already), or change {option.replace('-', '_')} in federation.json{outside}"
        ) from error


class _Server(uvicorn.Server):
    """One of two servers in a process, which leaves signals to ``_serve``."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield


def _server(coordinator: Coordinator, app: object, *, lifespan: bool) -> _Server:
    return _Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            lifespan="on" if lifespan else "off",
            access_log=False,
            log_level="warning",
            ssl_certfile=coordinator.server_file,
            ssl_keyfile=str(coordinator.server_key),
            timeout_graceful_shutdown=5,
        )
    )


async def _set(event: asyncio.Event) -> bool:
    return await event.wait()


async def _serve_door(server: _Server, at: socket.socket) -> bool:
    await server.serve(sockets=[at])
    return True


async def _started(server: _Server, serving: "asyncio.Task[bool]") -> None:
    while not server.started:
        if serving.done():
            raise ValueError("Flower's SuperLink did not start; its own lines above say why")
        await asyncio.sleep(0.05)


class _TokenPlugin(NoOpControlAuthnPlugin):
    """Lets in who knows the folder's token, as Flower's one account."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Return whether the call carries the token."""
        said = str(dict(metadata).get(ACCESS_TOKEN_KEY, ""))
        if not hmac.compare_digest(said.encode(), self._token.encode()):
            return False, None
        return True, AccountInfo(*OWNER)


def _config(coordinator: Coordinator, secret: bytes) -> SuperLinkLifespanConfig:
    certificate, key = coordinator.server_file, coordinator.server_key
    authority = coordinator.authority_file
    return SuperLinkLifespanConfig(
        host="127.0.0.1",
        port=coordinator.settings.control_port,
        control_address=coordinator.control_address,
        health_server_address=None,
        insecure=False,
        certificates=(authority.read_bytes(), certificate.read_bytes(), key.read_bytes()),
        ssl_ca_certfile=str(authority),
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        # The executor is started here, with a secret; the one that Flower starts by itself needs none.
        isolation=ISOLATION_MODE_PROCESS,
        superexec_auth_secret=secret,
        authn_plugin=_TokenPlugin(coordinator.control_token()),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        database=str(coordinator.database),
        runtime_dependency_install=False,
    )


@contextlib.contextmanager
def _executor(coordinator: Coordinator, secret: bytes) -> Iterator[None]:
    """Keep Flower's SuperExec running, which starts a process for each run's server app."""
    with secret_file(secret) as path:
        options = (
            *("--runtime-api-address", coordinator.control_address),
            *("--root-certificates", str(coordinator.authority_file)),
            *("--superexec-auth-secret-file", str(path)),
            *("--parent-pid", str(os.getpid())),
        )
        with flower_program(["flower-superexec", *options], coordinator.flower_home):
            yield
