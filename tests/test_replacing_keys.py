"""Keys that are revoked, replaced, or at their end."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import fedderm
from deployments import Deployment, stated

from fedderm.deploy.kit import Kit
from fedderm.deploy.node_key import fingerprint, read_node_key
from fedderm.deploy.register import node_names, read_register


@pytest.fixture
def uni(tmp_path: Path) -> Deployment:
    made = Deployment(tmp_path)
    assert made.init().code == 0
    return made


def test_a_revoked_key_stays_out_and_its_name_is_free_again(uni: Deployment) -> None:
    join_file = uni.join("north")
    uni.register(join_file)
    told = fedderm("deploy", "revoke", uni.coordinator, "north", "--reason", "laptop stolen")
    assert told.code == 0, told
    register = read_register(uni.coordinator / "register.json")
    verdict = register.judge(stated(join_file)["fingerprint"], datetime.now(UTC))
    assert not verdict.admitted
    assert "was revoked on" in verdict.sentence
    assert "(laptop stolen)" in verdict.sentence
    assert "and revoked on" in uni.register(join_file).sentence(), "the same key never again"
    shutil.rmtree(uni.folder / "fedderm-north")
    assert uni.register(uni.join("north")).code == 0, "a new kit and a new key"
    assert "has no key and no kit here" in fedderm("deploy", "revoke", uni.coordinator, "west").sentence()


def test_a_new_kit_over_the_old_folder_gets_a_new_key_and_keeps_the_site_file(uni: Deployment) -> None:
    old = stated(uni.join("north"))
    kit = uni.folder / "fedderm-north"
    uni.register(kit / "north.join.json")
    fedderm("deploy", "rotate", kit)  # begun, and never registered
    fedderm("deploy", "revoke", uni.coordinator, "north")
    site_file = (kit / "site.yaml").read_text()
    uni.kit("north")
    (kit / "site.yaml").write_text(site_file)
    told = fedderm("deploy", "join", kit, "--site", kit / "site.yaml")
    assert told.code == 0, told
    new = stated(kit / "north.join.json")
    assert new["fingerprint"] != old["fingerprint"]
    assert "replaces" not in new or new["replaces"] is None
    assert uni.register(kit / "north.join.json").code == 0
    assert uni.keys()["north"]["fingerprint"] == new["fingerprint"]
    assert {one.name for one in kit.glob("*.key*")} == {"node.key"}, "what rotate had begun is gone"


def test_join_looks_whether_the_images_are_there(uni: Deployment) -> None:
    kit = uni.kit("north")
    told = fedderm("deploy", "join", kit, "--site", kit / "site.yaml").sentence()
    assert "site.yaml: path names /" in told
    assert "which is not there; say where your images are" in told
    assert not (kit / "node.key").exists()


def test_a_withdrawn_kit_is_of_no_use(uni: Deployment) -> None:
    join_file = uni.join("north")
    fedderm("deploy", "revoke", uni.coordinator, "north")
    assert "the kit of north was withdrawn" in uni.register(join_file).sentence()


def test_a_replacing_key_needs_the_old_keys_signature_and_no_telephone(uni: Deployment) -> None:
    old = stated(uni.join("north"))
    kit = uni.folder / "fedderm-north"
    uni.register(kit / "north.join.json")
    assert fedderm("deploy", "rotate", kit).code == 0
    new = stated(kit / "north.join.json")
    assert new["replaces"] == old["fingerprint"]
    assert fingerprint(read_node_key(kit / "node.key").public_key()) == old["fingerprint"], "not yet taken"

    document = json.loads((kit / "north.join.json").read_text())
    forged = kit / "forged.json"
    forged.write_text(json.dumps({**document, "replaced_signature": document["signature"]}))
    told = fedderm("deploy", "register", uni.coordinator, forged).sentence()
    assert "the signature of the key it replaces does not fit" in told

    assert fedderm("deploy", "register", uni.coordinator, kit / "north.join.json").code == 0
    register, now = read_register(uni.coordinator / "register.json"), datetime.now(UTC)
    assert not register.judge(old["fingerprint"], now).admitted
    assert register.judge(new["fingerprint"], now).admitted
    assert uni.keys()["north"]["fingerprint"] == new["fingerprint"]


def test_a_key_ends_and_cannot_vouch_for_another(uni: Deployment) -> None:
    statement = stated(uni.join("north"))
    kit = Kit.open(uni.folder / "fedderm-north")
    uni.register(kit.join_file)
    register = read_register(uni.coordinator / "register.json")
    end = datetime.fromisoformat(statement["expires"])
    assert (end - datetime.fromisoformat(statement["written"])).days == 365
    assert register.judge(statement["fingerprint"], end - timedelta(seconds=1)).admitted
    ended = register.judge(statement["fingerprint"], end)
    assert not ended.admitted
    assert "ask the coordinator for a new kit" in ended.sentence
    with pytest.raises(ValueError, match=r"the node's key ended on .*ask the coordinator for a new kit"):
        kit.rotate(end)


def test_only_keys_that_flower_knows_and_are_in_force_name_nodes(uni: Deployment) -> None:
    for site in ("north", "south", "west"):
        uni.register(uni.join(site))
    path = uni.coordinator / "register.json"
    document = json.loads(path.read_text())
    for number, key in enumerate(document["keys"]):
        key["node_id"] = None if key["site"] == "west" else 2**63 + number
    path.write_text(json.dumps(document))
    fedderm("deploy", "revoke", uni.coordinator, "south")
    assert node_names(path) == {2**63: "north"}


def test_a_key_whose_join_file_was_removed_is_replaced_too(uni: Deployment) -> None:
    join_file = uni.join("north")
    kit = uni.folder / "fedderm-north"
    uni.register(join_file)
    join_file.unlink()  # sent, and tidied away
    told = fedderm("deploy", "join", kit, "--site", kit / "site.yaml").sentence()
    assert "this hospital has its key already" in told
    fedderm("deploy", "revoke", uni.coordinator, "north")
    site_file = (kit / "site.yaml").read_text()
    uni.kit("north")
    (kit / "site.yaml").write_text(site_file)
    assert fedderm("deploy", "join", kit, "--site", kit / "site.yaml").code == 0
    assert uni.register(join_file).code == 0


def test_the_old_key_stays_until_the_new_one_is_there(
    uni: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    uni.join("north")
    kit = uni.folder / "fedderm-north"
    key = (kit / "node.key").read_bytes()
    site_file = (kit / "site.yaml").read_text()
    fedderm("deploy", "revoke", uni.coordinator, "north")
    uni.kit("north")
    (kit / "site.yaml").write_text(site_file)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "node.key")

    monkeypatch.setattr("fedderm.deploy.kit.write_new_key", full)
    with pytest.raises(OSError, match="No space left"):
        Kit.open(kit).join(kit / "site.yaml", datetime.now(UTC))
    assert (kit / "node.old").read_bytes() == key
    monkeypatch.undo()
    Kit.open(kit).join(kit / "site.yaml", datetime.now(UTC))
    assert {one.name for one in kit.glob("node.*")} == {"node.key"}
