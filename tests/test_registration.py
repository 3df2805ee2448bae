"""From init to register: who gets a name, which keys are let in, and what is refused on the way."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import fedderm, process
from deployments import Deployment, stated

from fedderm.deploy.authority import new_authority, new_key, new_server_certificate, read_certificate
from fedderm.deploy.coordinator import Coordinator
from fedderm.deploy.joining import read_join, write_join
from fedderm.deploy.kit import Kit
from fedderm.deploy.node_key import fingerprint, public_key_of
from fedderm.deploy.register import read_register

NOW = datetime.now(UTC)


@pytest.fixture
def uni(tmp_path: Path) -> Deployment:
    made = Deployment(tmp_path)
    assert made.init().code == 0
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The coordinator's folder


def test_secrets_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Deployment(tmp_path)
        told = made.init()
        made.join("north")
    finally:
        os.umask(before)
    assert told.code == 0, told
    assert mode(made.coordinator) == 0o700
    secrets = ("authority/authority.key", "server/server.key", "control.token", "register.json")
    assert all(mode(made.coordinator / name) == 0o600 for name in secrets)
    assert all(f"{name} " in told.out for name in secrets), "each is told"
    assert mode(tmp_path / "fedderm-north") == 0o700
    assert mode(tmp_path / "fedderm-north" / "node.key") == 0o600


def test_nothing_is_overwritten(uni: Deployment) -> None:
    key = (uni.coordinator / "authority" / "authority.key").read_bytes()
    assert "is there already and nothing is overwritten" in uni.init().sentence()
    assert (uni.coordinator / "authority" / "authority.key").read_bytes() == key
    uni.join("north")
    kit = uni.folder / "fedderm-north"
    again = fedderm("deploy", "join", kit, "--site", kit / "site.yaml").sentence()
    assert "this hospital has its key already; send north.join.json" in again


@pytest.mark.parametrize(
    ("name", "expected"), [("register.json", "damaged"), ("federation.json", "is no coordinator's folder")]
)
def test_a_damaged_folder_is_a_sentence(uni: Deployment, name: str, expected: str) -> None:
    (uni.coordinator / name).unlink()
    if name == "register.json":
        (uni.coordinator / name).write_text("{}x")
    assert expected in fedderm("deploy", "kit", uni.coordinator, "north").sentence()


def test_a_key_or_folder_that_is_open_to_others_is_refused(uni: Deployment) -> None:
    (uni.coordinator / "server" / "server.key").chmod(0o644)
    told = fedderm("deploy", "superlink", uni.coordinator).sentence()
    assert "server.key: the server's private key can be read by others on this machine (mode 0644)" in told
    uni.coordinator.chmod(0o755)
    assert "others on this machine can enter this folder" in (
        fedderm("deploy", "status", uni.coordinator).sentence()
    )


@pytest.mark.parametrize("host", ["fed.example.org:9092", "10.0.0.256", "https://fed", "-fed", ""])
def test_what_is_no_host_is_refused_before_anything_is_made(tmp_path: Path, host: str) -> None:
    told = fedderm("deploy", "init", tmp_path / "fed", "--name", "uni", "--host", host).sentence()
    assert f"--host {host}: expected a name such as fed.example.org" in told
    assert not (tmp_path / "fed").exists()


def test_certificates_hold_for_names_and_dates(uni: Deployment) -> None:
    """Read back by OpenSSL, which shares no code with what wrote them."""
    authority, server = (uni.coordinator / name for name in ("authority/authority.crt", "server/server.crt"))

    def openssl(*arguments: str | Path) -> str:
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    strict = ("verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", authority)
    assert ": OK" in openssl(*strict, "-verify_hostname", "localhost", server)
    assert ": OK" in openssl(*strict, "-verify_ip", "127.0.0.1", server)
    assert "hostname mismatch" in openssl(*strict, "-verify_hostname", "elsewhere.org", server)
    text = openssl("x509", "-in", server, "-noout", "-text")
    assert "ASN1 OID: secp384r1" in text
    assert "CA:FALSE" in text
    days = (read_certificate(server).not_valid_after_utc - datetime.now(UTC)).days
    assert days == 364, "a year, less the seconds of this test"


def test_a_server_certificate_never_outlives_its_authority() -> None:
    key, made = new_key(), NOW - timedelta(days=3600)
    authority = new_authority("uni", key, made)
    server = new_server_certificate(authority, key, new_key(), ("fed.example.org",), NOW)
    assert server.not_valid_after_utc == authority.not_valid_after_utc
    assert (server.not_valid_after_utc - NOW).days == 49


@pytest.mark.parametrize(
    ("days", "expected"),
    [(366, r"the server's certificate ended on .*fedderm deploy rotate"), (340, "in 2[45] days"), (300, "")],
)
def test_it_warns_thirty_days_before_the_end_and_refuses_after(
    uni: Deployment, days: int, expected: str
) -> None:
    coordinator, later = Coordinator.open(uni.coordinator), datetime.now(UTC) + timedelta(days=days)
    if days > 365:
        with pytest.raises(ValueError, match=expected):
            coordinator.check(later)
        coordinator.renew_server(later)
        assert coordinator.check(later) == [], "renewed, it holds again"
    else:
        told = coordinator.check(later)
        assert bool(told) == bool(expected)
        assert all(expected.split()[0] in one for one in told)


# Kits and keys


def test_a_kit_holds_no_secret_and_says_where_to_call(uni: Deployment) -> None:
    kit = uni.kit("north")
    assert {path.name for path in kit.iterdir()} == {"kit.json", "authority.crt", "README.md", "site.yaml"}
    assert not [path for path in kit.iterdir() if "PRIVATE" in path.read_text()]
    settings = json.loads((kit / "kit.json").read_text())
    told = (kit / "README.md").read_text() + (kit / "site.yaml").read_text()
    assert settings["authority"] in told, "to be compared on the telephone"
    assert "@" not in told, "no word of the template is left"
    assert settings["server"].rpartition(":")[2] in told


def test_the_fingerprint_is_the_one_that_ssh_keygen_prints(uni: Deployment) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    said = stated(uni.join("north"))["fingerprint"]
    key = uni.folder / "fedderm-north" / "node.key"
    told = subprocess.run(["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True).stdout
    assert told.split()[:2] == ["384", said]


def test_the_site_file_must_be_this_kits(uni: Deployment) -> None:
    kit = uni.kit("north")
    (kit / "other.yaml").write_text("{name: south, source: simulated}")
    told = fedderm("deploy", "join", kit, "--site", kit / "other.yaml").sentence()
    assert "the site is called south, but this kit is for north; set name: north" in told
    assert not (kit / "node.key").exists()


def test_a_kit_whose_certificate_was_exchanged_is_refused(uni: Deployment, tmp_path: Path) -> None:
    other = Deployment(tmp_path / "other")
    other.folder.mkdir()
    other.init()
    kit = uni.kit("north")
    shutil.copy(other.coordinator / "authority" / "authority.crt", kit / "authority.crt")
    (kit / "site.yaml").write_text("{name: north, source: simulated}")
    told = fedderm("deploy", "join", kit, "--site", kit / "site.yaml").sentence()
    assert "is not the certificate that kit.json names" in told


def test_both_units_are_what_systemd_reads(uni: Deployment) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    uni.join("north")
    units = [
        uni.coordinator / "fedderm-superlink.service",
        uni.folder / "fedderm-north" / "fedderm-supernode.service",
    ]
    for unit in units:
        text = unit.read_text()
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
        )
        found = [line for line in done.stderr.splitlines() if unit.name in line]
        assert not [line for line in found if "not executable" not in line], done.stderr
        assert "Restart=always" in text


# Registration


def test_a_key_is_registered_once_and_for_its_name(uni: Deployment) -> None:
    join_file = uni.join("north")
    assert uni.register(join_file).code == 0
    key = uni.keys()["north"]
    assert key["fingerprint"] == stated(join_file)["fingerprint"]
    assert fingerprint(public_key_of(key["public_key"])) == key["fingerprint"]
    assert "was registered on" in uni.register(join_file).sentence(), "a replay"
    assert "was registered on" in uni.register(join_file).sentence(), "and again"
    assert len(read_register(uni.coordinator / "register.json").keys) == 1


def test_two_hospitals_cannot_have_one_name(uni: Deployment) -> None:
    join_file = uni.join("North")
    kit = uni.folder / "fedderm-North"
    waiting = fedderm("deploy", "kit", uni.coordinator, "north").sentence()
    assert "there is a kit for North" in waiting
    copy = uni.folder / "copy"
    shutil.copytree(kit, copy)  # the same kit came to a second hospital
    (copy / "node.key").unlink()
    assert fedderm("deploy", "join", copy, "--site", copy / "site.yaml").code == 0
    assert uni.register(join_file).code == 0
    told = uni.register(copy / "North.join.json").sentence()
    assert "North has joined already" in told
    assert "two hospitals have one name" in told
    assert (
        "give another hospital another name" in fedderm("deploy", "kit", uni.coordinator, "north").sentence()
    )


def test_the_fingerprint_on_the_telephone_decides(uni: Deployment) -> None:
    join_file = uni.join("north")
    other = stated(uni.join("south"))["fingerprint"]
    told = fedderm("deploy", "register", uni.coordinator, join_file, "--fingerprint", other).sentence()
    assert f"not {other}; it is not from the hospital you called" in told
    silent = process("deploy", "register", uni.coordinator, join_file, cwd=uni.folder).sentence()
    assert "--fingerprint SHA256:" in silent, "without a terminal nobody can be asked"
    assert not uni.keys()


def altered(join_file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(join_file.read_text())
    statement = json.loads(document["statement"])
    change(statement)
    join_file.write_text(json.dumps({**document, "statement": json.dumps(statement)}))


@pytest.mark.parametrize(
    ("key", "value"), [("site", "south"), ("written", NOW.isoformat()), ("invitation", "0" * 32)]
)
def test_a_join_file_that_was_altered_is_refused(uni: Deployment, key: str, value: str) -> None:
    join_file = uni.join("north")
    altered(join_file, lambda statement: statement.update({key: value}))
    assert "was altered on its way (its signature does not fit)" in uni.register(join_file).sentence()
    assert not uni.keys()


def test_another_key_under_the_same_signature_is_refused(uni: Deployment) -> None:
    join_file, other = uni.join("north"), stated(uni.join("south"))
    altered(join_file, lambda statement: statement.update(public_key=other["public_key"]))
    told = fedderm("deploy", "register", uni.coordinator, join_file, "--fingerprint", "x").sentence()
    assert "names a fingerprint that is not its key's" in told


def test_a_join_file_of_another_federation_is_refused(uni: Deployment, tmp_path: Path) -> None:
    other = Deployment(tmp_path / "other")
    other.folder.mkdir()
    other.init()
    assert "was made for another federation (uni)" in uni.register(other.join("north")).sentence()


@pytest.mark.parametrize(
    ("days", "expected"),
    [(15, r"more than 14 days ago"), (-1, "was written in the future"), (13, "")],
)
def test_a_join_file_is_good_for_two_weeks(uni: Deployment, days: int, expected: str) -> None:
    uni.join("north")
    kit = Kit.open(uni.folder / "fedderm-north")
    write_join(kit.join_file, kit.settings, kit.key(), NOW - timedelta(days=days))
    if expected:
        with pytest.raises(ValueError, match=expected):
            read_join(kit.join_file, kit.settings.authority, NOW)
    else:
        assert read_join(kit.join_file, kit.settings.authority, NOW).site == "north"


# Revoking, replacing, ending
