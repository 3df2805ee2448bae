"""The server's door, and what a hospital is told before its SuperNode starts: real TLS on the loopback."""

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from deployments import Deployment, stated
from flower_processes import free_port

from fedderm.deploy.admission import NotAnswering, ask_admission
from fedderm.deploy.authority import (
    certificate_pem,
    key_pem,
    new_authority,
    new_key,
    new_server_certificate,
)
from fedderm.deploy.documents import versions
from fedderm.deploy.door import ADMISSION, FLEET, Admission, Door
from fedderm.deploy.node_key import flower_bytes, public_key_of
from fedderm.deploy.register import LiveRegister

# The door


class Inside:
    """What stands behind the door: says that it was reached."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.status = 204

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        del receive
        self.reached.append(scope["path"])
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Caller:
    """Calls at a door, as uvicorn does."""

    def __init__(self, register: Path) -> None:
        self.inside = Inside()
        self.door = Door(self.inside, LiveRegister(register))

    def call(
        self, path: str, method: str = "POST", *keys: bytes, query: str = "", kind: str = "http"
    ) -> tuple[int, Any]:
        """Return status and answer of a call that carries these keys."""
        said: list[Any] = []

        async def send(part: Any) -> None:
            said.append(part)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        headers = [(b"flwr-public-key", base64.b64encode(key)) for key in keys]
        scope = {
            "type": kind,
            "path": path,
            "method": method,
            "headers": headers,
            "query_string": query.encode(),
        }
        asyncio.run(self.door(scope, receive, send))
        if not said:
            return 0, None
        return said[0]["status"], json.loads(said[1]["body"] or b"null")


@pytest.fixture
def uni(tmp_path: Path) -> Deployment:
    made = Deployment(tmp_path)
    made.init()
    for site in ("north", "south"):
        assert made.register(made.join(site)).code == 0
    return made


def key_of(uni: Deployment, site: str) -> bytes:
    return flower_bytes(
        public_key_of(stated(uni.folder / f"fedderm-{site}" / f"{site}.join.json")["public_key"])
    )


def test_outside_there_is_what_a_supernode_calls_and_nothing_else(uni: Deployment) -> None:
    """Every path of Flower's own application is tried with a registered key: whoever adds one is noticed."""
    from flwr.superlink.main import create_app

    caller, key = Caller(uni.coordinator / "register.json"), key_of(uni, "north")
    paths = set(create_app().openapi()["paths"])
    assert {"/v1/control/start-run", "/v1/runtime/acquire-task", *FLEET} <= paths
    for path in sorted(paths | {"/docs", "/openapi.json", "/health", "/", "/v1/fleet/../control/start-run"}):
        expected = 204 if path in FLEET else 404
        assert caller.call(path, "POST", key)[0] == expected, path
        assert caller.call(path, "GET", key)[0] == 404, path
    assert set(caller.inside.reached) == FLEET
    assert "/v1/fleet/register-node" in paths - FLEET, "only the coordinator registers"
    assert caller.call("/v1/fleet/get-run", "POST", key, kind="websocket") == (0, None)


def test_a_key_that_is_not_registered_or_not_one_does_not_come_in(uni: Deployment) -> None:
    caller, call = Caller(uni.coordinator / "register.json"), "/v1/fleet/pull-messages"
    key, stranger = key_of(uni, "north"), flower_bytes(new_key().public_key())
    status, told = caller.call(call, "POST", stranger)
    assert status == 401
    assert "is not registered; send the join file to the coordinator" in told["detail"]
    assert caller.call(call, "POST")[0] == 401
    assert caller.call(call, "POST", b"no key")[0] == 401
    assert caller.call(call, "POST", key, stranger)[0] == 401, "which of them?"
    assert caller.inside.reached == []
    assert caller.call(call, "POST", key)[0] == 204


def test_a_node_was_heard_only_where_its_signature_was_good(uni: Deployment) -> None:
    """A public key is no secret: a stranger who sends it must not make a lost node look alive."""
    caller, key = Caller(uni.coordinator / "register.json"), key_of(uni, "north")
    query = (
        f"key={stated(uni.folder / 'fedderm-north' / 'north.join.json')['fingerprint'].replace('+', '%2B')}"
    )
    caller.inside.status = 401
    assert caller.call("/v1/fleet/pull-messages", "POST", key)[0] == 401
    assert caller.call(ADMISSION, "GET", query=query)[1]["heard"] is None
    caller.inside.status = 204
    assert caller.call("/v1/fleet/pull-messages", "POST", key)[0] == 204
    assert caller.call(ADMISSION, "GET", query=query)[1]["heard"] is not None


def test_a_key_that_is_revoked_is_out_with_the_next_call(uni: Deployment) -> None:
    from commands import fedderm

    caller, call = Caller(uni.coordinator / "register.json"), "/v1/fleet/send-node-heartbeat"
    north, south = key_of(uni, "north"), key_of(uni, "south")
    assert [caller.call(call, "POST", key)[0] for key in (north, south)] == [204, 204]
    assert fedderm("deploy", "revoke", uni.coordinator, "north").code == 0
    status, told = caller.call(call, "POST", north)
    assert status == 401, "which ends a connected SuperNode"
    assert "the key of north was revoked on" in told["detail"]
    assert caller.call(call, "POST", south)[0] == 204


def test_it_says_who_is_admitted_and_what_the_server_runs(uni: Deployment) -> None:
    caller = Caller(uni.coordinator / "register.json")
    known = uni.keys()["north"]["fingerprint"]
    status, told = caller.call(ADMISSION, "GET", query="key=" + known.replace("+", "%2B"))
    answer = Admission.model_validate(told)
    assert (status, answer.admitted, answer.versions) == (200, True, versions())
    assert abs((answer.now - datetime.now(UTC)).total_seconds()) < 60
    assert not Admission.model_validate(caller.call(ADMISSION, "GET", query="key=SHA256:x")[1]).admitted


# What a hospital is told

KNOWN = "SHA256:known"


class Server:
    """A certificate authority, and a TLS server that answers as a coordinator's does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.key = new_key()
        self.authority = new_authority("uni", self.key, datetime.now(UTC) - timedelta(days=400))
        self.authority_file = folder / "authority.crt"
        self.authority_file.write_bytes(certificate_pem(self.authority))

    @contextmanager
    def at(
        self, host: str = "localhost", since_days: int = 0, answer: bytes | None = None, **changes: Any
    ) -> Iterator[str]:
        """Yield HOST:PORT of a server whose certificate is for ``host``, made so many days ago."""
        made = datetime.now(UTC) - timedelta(days=since_days)
        key = new_key()
        certificate = new_server_certificate(self.authority, self.key, key, (host,), made)
        (self.folder / "server.crt").write_bytes(certificate_pem(certificate))
        (self.folder / "server.key").write_bytes(key_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told: dict[str, Any] = {
                    "admitted": "known" in self.path,
                    "sentence": "as it is",
                    "versions": versions(),
                    "now": datetime.now(UTC),
                    **changes,
                }
                body = answer if answer is not None else Admission(**told).model_dump_json().encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        class Quiet(HTTPServer):
            def handle_error(self, *_: object) -> None:
                return  # a handshake that was refused

        server = Quiet(("0.0.0.0", free_port()), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"localhost:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "server")


def test_the_right_server_answers(server: Server) -> None:
    with server.at() as address:
        assert ask_admission(address, server.authority_file, KNOWN).admitted
        assert not ask_admission(address, server.authority_file, "SHA256:other").admitted


def test_a_server_of_another_authority_is_refused(server: Server, tmp_path: Path) -> None:
    other = Server(tmp_path / "other")
    with other.at() as address, pytest.raises(ValueError, match="not this federation's server") as caught:
        ask_admission(address, server.authority_file, KNOWN)
    assert not isinstance(caught.value, NotAnswering), "waiting does not help"


def test_a_certificate_that_has_ended_is_refused(server: Server) -> None:
    with server.at(since_days=366) as address, pytest.raises(ValueError, match="has ended; ask the coord"):
        ask_admission(address, server.authority_file, KNOWN)


def test_a_certificate_of_tomorrow_is_refused(server: Server) -> None:
    with (
        server.at(since_days=-1) as address,
        pytest.raises(ValueError, match="not valid yet; set this machin"),
    ):
        ask_admission(address, server.authority_file, KNOWN)


def test_a_server_under_another_name_is_refused(server: Server) -> None:
    """Certificates are for the loopback's own names, too; the loopback's other addresses are in none."""
    with server.at() as address:
        elsewhere = address.replace("localhost", "127.0.0.2")
        with pytest.raises(ValueError, match=r"is not for the name 127\.0\.0\.2"):
            ask_admission(elsewhere, server.authority_file, KNOWN)


def test_nobody_there_is_a_reason_to_wait(server: Server) -> None:
    with pytest.raises(NotAnswering, match=r"no answer from localhost:\d+ .*firewall"):
        ask_admission(f"localhost:{free_port()}", server.authority_file, KNOWN)


def test_what_is_no_coordinator_is_told(server: Server) -> None:
    with server.at(answer=b"<html>") as address, pytest.raises(ValueError, match="no fedderm coordinator"):
        ask_admission(address, server.authority_file, KNOWN)


@pytest.mark.parametrize(("seconds", "expected"), [(-60, "60 s ahead of"), (400, "400 s behind"), (200, "")])
def test_a_clock_that_flower_would_refuse_is_told(server: Server, seconds: int, expected: str) -> None:
    now = datetime.now(UTC) + timedelta(seconds=seconds)
    with server.at(now=now) as address:
        if expected:
            with pytest.raises(ValueError, match=r"this machine's clock is .* the server's") as caught:
                ask_admission(address, server.authority_file, KNOWN)
            assert expected.split()[2] in str(caught.value)
        else:
            ask_admission(address, server.authority_file, KNOWN)


def test_another_version_is_refused(server: Server) -> None:
    newer = versions().model_copy(update={"fedderm": "9.0.0"})
    with (
        server.at(versions=newer) as address,
        pytest.raises(ValueError, match=r"the server runs fedderm 9\.0\.0, .* update the older one"),
    ):
        ask_admission(address, server.authority_file, KNOWN)
