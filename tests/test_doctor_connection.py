"""The way to the coordinator, tried against real TLS servers on loopback: each fault has its own sentence."""

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from certificates import Authority, plain_server, tls_server
from commands import clinic, fedderm, write_config

from fedderm.doctor import Coordinator, Finding, examine_connection


def tried(port: int, ca: Path | None, host: str = "localhost", patience: float = 10) -> Finding:
    return examine_connection(Coordinator(host, port, ca), patience)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def test_a_sound_server_is_fine(authority: Authority) -> None:
    with tls_server(authority.server(("localhost", "127.0.0.1"), (-1, 200))) as port:
        for host in ("localhost", "127.0.0.1"):
            found = tried(port, authority.file, host)
            assert found.level == "fine", found
            ends = datetime.now(UTC) + timedelta(days=200)
            assert f"coordinator {host}:{port}: TLSv1.3, " in found.sentence
            assert f"signed by the CA in {authority.file} and valid until {ends:%Y-%m-%d}" in found.sentence


def test_a_certificate_that_ends_soon_is_told(authority: Authority) -> None:
    with tls_server(authority.server(("localhost",), (-1, 12.5))) as port:
        found = tried(port, authority.file)
    assert found.level == "look"
    assert "12 days from now; ask the coordinator to renew it" in found.sentence


def test_a_server_of_http_1_is_what_the_coordinators_is(authority: Authority) -> None:
    with tls_server(authority.server(("localhost",)), protocols=("http/1.1",)) as port:
        assert tried(port, authority.file).level == "fine"


def test_a_grpc_server_is_what_a_superlink_is(authority: Authority) -> None:
    """gRPC's own TLS, which is BoringSSL's, with the credentials that Flower gives it."""
    certificate, key = (file.read_bytes() for file in authority.server(("localhost",)))
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    try:
        assert tried(port, authority.file).level == "fine"
    finally:
        server.stop(grace=None).wait(10)


def stopped(found: Finding) -> str:
    assert found.level == "stops", found
    assert "\n" not in found.sentence
    return found.sentence


def test_another_name(authority: Authority) -> None:
    with tls_server(authority.server(("fed.example.org", "10.1.2.3"))) as port:
        by_name = stopped(tried(port, authority.file))
        by_address = stopped(tried(port, authority.file, "127.0.0.1"))
    assert "its certificate is for fed.example.org, 10.1.2.3, not for localhost; use one of these" in by_name
    assert "its certificate is for fed.example.org, 10.1.2.3, not for 127.0.0.1;" in by_address


def test_an_unknown_ca_also_one_of_the_same_name(tmp_path: Path, authority: Authority) -> None:
    for name in ("Elsewhere CA", "Test CA"):
        other = Authority(tmp_path / name, name)
        with tls_server(authority.server(("localhost",))) as port:
            told = stopped(tried(port, other.file))
            assert f"is not signed by the CA in {other.file} but by CN=Test CA; get the CA file anew" in told


def test_a_private_ca_that_nobody_named(authority: Authority) -> None:
    with tls_server(authority.server(("localhost",))) as port:
        told = stopped(tried(port, None))
    assert "is not signed by a CA that this machine trusts but by CN=Test CA" in told


def test_an_expired_and_a_future_certificate_name_the_clock(authority: Authority) -> None:
    now = datetime.now(UTC)
    with tls_server(authority.server(("localhost",), (-90, -3))) as port:
        told = stopped(tried(port, authority.file))
    assert f"its certificate expired on {now - timedelta(days=3):%Y-%m-%d} (by this machine's clock" in told
    assert "ask the coordinator to renew it" in told
    with tls_server(authority.server(("localhost",), (2, 90))) as port:
        told = stopped(tried(port, authority.file))
    assert f"its certificate begins on {now + timedelta(days=2):%Y-%m-%d}" in told
    assert "set this machine's clock" in told


def test_an_expired_ca(tmp_path: Path) -> None:
    old = Authority(tmp_path / "old", days=(-800, -10))
    with tls_server(old.server(("localhost",))) as port:
        told = stopped(tried(port, old.file))
    ended = datetime.now(UTC) - timedelta(days=10)
    assert f"the CA certificate in {old.file} expired on {ended:%Y-%m-%d}" in told


def test_a_ca_file_that_is_none(tmp_path: Path, authority: Authority) -> None:
    absent = tmp_path / "absent.pem"
    assert f"the CA file {absent} cannot be read" in stopped(tried(1, absent))
    (tmp_path / "text.pem").write_text("hello")
    assert "text.pem holds no certificate" in stopped(tried(1, tmp_path / "text.pem"))
    key = authority.server(("localhost",))[1]
    assert "server.key holds no certificate" in stopped(tried(1, key))


def test_a_closed_port(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = stopped(tried(port, authority.file, "127.0.0.1"))
    assert f"127.0.0.1 refuses connections to port {port}: no server listens there" in told


def test_an_unknown_name(authority: Authority) -> None:
    """RFC 6761: no name ends in .invalid."""
    told = stopped(tried(9092, authority.file, "fed.invalid"))
    assert "the name fed.invalid is not known here" in told


def test_a_port_without_tls(authority: Authority) -> None:
    with plain_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert "what answers there speaks no TLS" in stopped(tried(port, authority.file, "127.0.0.1"))


def test_a_port_that_hangs_up(authority: Authority) -> None:
    with plain_server(b"") as port:
        told = stopped(tried(port, authority.file, "127.0.0.1"))
    assert "the connection is closed during the TLS handshake" in told


def test_a_port_that_stays_silent(authority: Authority) -> None:
    with plain_server(None) as port:
        told = stopped(tried(port, authority.file, "127.0.0.1", patience=0.5))
    assert "the port is open but answers no TLS handshake within 0.5 s" in told


@pytest.mark.parametrize("address", ["fed.org", "fed:", ":9092", "fed:99999", "https://fed:9092", "a:b"])
def test_an_address_that_is_none(tmp_path: Path, address: str) -> None:
    clinic(tmp_path)
    told = fedderm("sites", "doctor", write_config(tmp_path), "--coordinator", address).sentence()
    assert f"--coordinator {address}: expected HOST:PORT, such as fed.example.org:9092" in told


def test_brackets_of_an_ipv6_address() -> None:
    assert Coordinator.parse("[::1]:9092", None) == Coordinator("::1", 9092, None)


def test_the_command_tries_the_way_and_its_exit_code_says_so(tmp_path: Path, authority: Authority) -> None:
    clinic(tmp_path)
    path = write_config(tmp_path)
    with tls_server(authority.server(("localhost",))) as port:
        way = ("--coordinator", f"localhost:{port}")
        sound = fedderm("sites", "doctor", path, *way, "--ca", authority.file)
        assert sound.code == 0, sound
        assert f"fine  coordinator localhost:{port}: TLSv1.3" in sound.out
        refused = fedderm("sites", "doctor", path, *way)
        assert refused.code == 2
        first = refused.out.splitlines()[refused.out.splitlines().index("clinic (train, folder)") + 1]
        assert first.startswith("  stops coordinator"), "what must be mended comes first"
    alone = fedderm("sites", "doctor", path, "--ca", authority.file)
    assert "--ca goes with --coordinator" in alone.sentence()
