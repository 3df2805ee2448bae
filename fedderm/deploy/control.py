"""The coordinator's own calls to its SuperLink, over the control door on the loopback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import httpx
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from fedderm.deploy.coordinator import Coordinator
from fedderm.deploy.node_key import flower_bytes, public_key_of
from fedderm.deploy.register import changed_register

Request = TypeVar("Request")
OWNER = (NOOP_FLWR_AID, NOOP_ACCOUNT_NAME)
"""Flower's one account where there are no accounts: it owns all nodes and runs."""


class Node(NamedTuple):
    """A node as the SuperLink knows it."""

    node_id: int
    public_key: bytes
    status: str
    """registered, online, offline or unregistered."""
    since: str
    """ISO time of the last change between online and offline; empty before the first."""


class Run(NamedTuple):
    """A run as the SuperLink knows it."""

    run_id: int
    status: str
    """Such as running, or finished:completed."""
    details: str
    begun: str


class Control:
    """Calls to the SuperLink of a coordinator's folder; each raises ValueError where it cannot be made."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def nodes(self) -> list[Node]:
        """Return all nodes ever registered."""
        found = _read(self._client.ListNodes, ListNodesRequest()).nodes_info
        return [
            Node(
                one.node_id,
                one.public_key,
                one.status,
                one.last_activated_at if one.status == "online" else one.last_deactivated_at,
            )
            for one in found
        ]

    def runs(self, limit: int) -> list[Run]:
        """Return the latest runs, the newest first."""
        found = _read(self._client.ListRuns, ListRunsRequest(limit=limit)).run_dict.values()
        return sorted(map(_run, found), key=lambda run: run.begun, reverse=True)

    def run(self, run_id: int) -> Run:
        """Return one run."""
        return _run(_read(self._client.ListRuns, ListRunsRequest(run_id=run_id)).run_dict[run_id])

    def start(self, fab: Fab, config: dict[str, bool | float | int | str]) -> int:
        """Start a run and return its id."""
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(config))
        answer = self._client.StartRun(request)
        if not answer.HasField("run_id"):
            raise ValueError("the SuperLink refused the run; its own log says why")
        return int(answer.run_id)

    def stop(self, run_id: int) -> None:
        """Stop a run."""
        self._client.StopRun(StopRunRequest(run_id=run_id))

    def log(self, run_id: int) -> Iterator[str]:
        """Yield what a run's server app prints, from its begin until the run ends."""
        for part in self._client.StreamLogs(StreamLogsRequest(run_id=run_id, after_timestamp=0.0)):
            yield part.log_output

    def apply_register(self, coordinator: Coordinator) -> None:
        """Make the SuperLink's nodes those of the register: add new keys, take away revoked ones."""
        with changed_register(coordinator.register) as register:
            known = {node.public_key: node for node in self.nodes()}
            for position, key in enumerate(register.keys):
                public_key = flower_bytes(public_key_of(key.public_key))
                node = known.get(public_key)
                if key.revoked is not None:
                    if node is not None and node.status != "unregistered":
                        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
                    continue
                node_id = node.node_id if node is not None else self._register(public_key, key.site)
                register.keys[position] = key.model_copy(update={"node_id": node_id})

    def _register(self, public_key: bytes, site: str) -> int:
        answer = self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=site))
        return int(answer.node_id)


def _read(call: Callable[[Request], Any], request: Request) -> Any:
    """Return the answer to a call that changes nothing, made again where its connection had just ended."""
    try:
        return call(request)
    except httpx.RemoteProtocolError:  # kept open from the call before, and closed by the server meanwhile
        return call(request)


def _run(one: Any) -> Run:
    status = ":".join(part for part in (one.status.status, one.status.sub_status) if part)
    return Run(one.run_id, status, one.status.details, one.running_at or one.pending_at)


class _Token:
    """Puts the control token into each call."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the header."""
        context.request.headers["authorization"] = f"Bearer {self._token}"
        return call_next(context)


@contextmanager
def control(coordinator: Coordinator) -> Iterator[Control]:
    """Yield the calls; raises ValueError where no SuperLink of this folder is running."""
    client = ControlHttpClient.from_server_address(
        coordinator.control_address,
        insecure=False,
        root_certificates=coordinator.authority_file.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
            _Token(coordinator.control_token()),
        ],
    )
    try:
        yield Control(client)
    except httpx.HTTPStatusError as error:
        raise ValueError(
            f"the SuperLink at {coordinator.control_address} refused a call "
            f"({error.response.status_code}: {error.response.text[:200]}); is it that of {coordinator.path}?"
        ) from error
    except httpx.TransportError as error:
        raise NotRunning(
            f"no SuperLink answers at {coordinator.control_address} ({error}); start it: "
            f"fedderm deploy superlink {coordinator.path}"
        ) from error
    finally:
        client.close()


class NotRunning(ValueError):  # noqa: N818 - what happened, as KeyboardInterrupt is called
    """The SuperLink does not answer."""
