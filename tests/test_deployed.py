"""A federation of real processes: one SuperLink behind its door, two SuperNodes with keys of their own.

The tests share it and come in the order of a federation's life: a run, a run that breaks, callers who do not
belong, code that a server would like to have run, a new key, a revoked one.
"""

import base64
import hashlib
import json
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import fedderm, process
from deployments import Deployment
from federations import only_run, run_in_memory, same, simulated, weights, write_config
from flwr.cli.build import build_fab_from_files
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedderm import config
from fedderm.deploy.authority import new_key
from fedderm.deploy.control import control
from fedderm.deploy.coordinator import Coordinator
from fedderm.deploy.node_key import flower_bytes, read_node_key
from fedderm.runs import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SITES = (simulated("south", 30), simulated("north", 36))
"""As the config lists them; the order of names, of node ids and of arrival is another."""


@pytest.fixture(scope="module")
def uni() -> Iterator[Deployment]:
    """Yield a running federation; its path is short, for sockets."""
    made = Deployment(Path(tempfile.mkdtemp(prefix="fd", dir="/tmp")))
    try:
        assert made.init().code == 0
        joined = {str(site["name"]): made.join(str(site["name"]), site) for site in SITES}
        assert made.register(joined["north"]).code == 0  # known when the SuperLink starts
        made.superlink()
        assert made.register(joined["south"]).code == 0  # registered while it runs
        for name in joined:
            made.supernode(name)
        yield made
    finally:
        made.close()


def experiment(root: Path, rounds: int) -> Path:
    """Return the config of a run over both sites, with places of the coordinator's own."""
    root.mkdir()
    return write_config(
        root,
        SITES,
        rounds=rounds,
        data_root=str(root / "no-data"),
        strategy={"deadline": 1200.0},
        evaluation={"every": 100},
    )


def simulated_weights(path: Path) -> dict[str, Any]:
    """Return what the same config gives in a simulation, in this process."""
    folder = RunFolder.create(config.load(path))
    run_in_memory(folder)
    return weights(folder.path)


def test_one_config_gives_the_same_weights_in_both_worlds(uni: Deployment, tmp_path: Path) -> None:
    path = experiment(tmp_path / "both", rounds=1)
    told = fedderm("deploy", "run", uni.coordinator, path)
    assert told.code == 0, told
    run = only_run(path.parent)
    assert "what the config says of the images and settings of south, north is not used" in told.out
    assert f"report: {run / 'report.html'}" in told.out
    assert (run / "report.html").stat().st_size > 50_000
    assert json.loads((run / "rounds" / "state.json").read_text())["finished"]
    assert not (path.parent / "cache").exists(), "the server says work_dir for itself alone"
    for site in ("north", "south"):
        assert list((uni.folder / f"fedderm-{site}" / ".fedderm" / "pixels").iterdir()), "the site's own file"
    assert same(weights(run), simulated_weights(path))


def test_a_superlink_that_is_killed_in_mid_run_comes_back_with_its_nodes(
    uni: Deployment, tmp_path: Path
) -> None:
    """Killed after the first of two rounds and resumed: node ids and weights are as if nothing had been."""
    path = experiment(tmp_path / "broken", rounds=2)
    ids = {site: key["node_id"] for site, key in uni.keys().items()}
    uni.start("run", "run", uni.coordinator, path)
    uni.until(lambda: "round 2/2: train" in uni.log("run"), "round 2 begins")
    killed = uni.processes.pop("superlink")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert uni.processes.pop("run").wait(timeout=120) == 2
    run = only_run(path.parent)
    assert f"go on with: fedderm deploy run {uni.coordinator} --resume {run}" in uni.log("run")
    assert json.loads((run / "rounds" / "state.json").read_text())["round"] == 1

    assert "no SuperLink answers" in (fedderm("deploy", "run", uni.coordinator, "--resume", run).sentence())
    uni.superlink()
    for site in ids:
        uni.until(lambda site=site: uni.state(site) == "online", f"{site} is back by itself")  # type: ignore[misc]
    assert {site: key["node_id"] for site, key in uni.keys().items()} == ids
    told = fedderm("deploy", "run", uni.coordinator, "--resume", run)
    assert told.code == 0, told
    assert same(weights(run), simulated_weights(path))


def test_health_is_told_on_the_loopback(uni: Deployment) -> None:
    coordinator = Coordinator.open(uni.coordinator)
    verify = str(coordinator.authority_file)
    answer = httpx.get(f"https://{coordinator.control_address}/v1/fedderm/health", verify=verify, timeout=30)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["serving"], told["sites_registered"], told["sites_connected"]) == (True, 2, 2)
    assert 360 < told["certificate_days_left"] <= 366
    outside = httpx.get(f"https://{coordinator.address}/v1/fedderm/health", verify=verify)
    assert outside.status_code == 404, "nobody outside is told"


def test_both_sides_see_how_it_stands_and_what_was_printed(uni: Deployment) -> None:
    told = fedderm("deploy", "status", uni.coordinator)
    assert "fedderm 0.1.0, Flower 1.41" in told.out
    for site in ("north", "south"):
        assert "round 2/2 of " in next(line for line in told.out.splitlines() if line.startswith(f"{site} "))
    kit = uni.folder / "fedderm-north"
    at_home = fedderm("deploy", "status", kit)
    assert at_home.code == 0, at_home
    assert "north: the node is running" in at_home.out
    assert "admits this key until" in at_home.out
    assert "its last answer: " in at_home.out
    log = (kit / "log" / "supernode.log").read_text()
    assert "north: taking part at localhost" in log
    assert "open at localhost" in (uni.coordinator / "log" / "superlink.log").read_text()
    again = process("deploy", "supernode", kit, cwd=uni.folder)
    assert again.code == 2
    assert "this node is running already" in again.err


def test_a_site_that_has_not_joined_is_told_before_anything_starts(uni: Deployment, tmp_path: Path) -> None:
    path = write_config(tmp_path, [{"name": "north", "lesions": 30}, {"name": "west", "lesions": 30}])
    told = fedderm("deploy", "run", uni.coordinator, path).sentence()
    assert "sites: west not registered with this federation; registered are north, south" in told
    assert not (tmp_path / "runs").exists()


# Callers who do not belong


def fleet(uni: Deployment, private_key: Any, public_key: Any) -> FleetHttpClient:
    """Return a client as a SuperNode's, which signs with one key and shows another, or the same."""
    coordinator = Coordinator.open(uni.coordinator)
    return FleetHttpClient.from_server_address(
        coordinator.address,
        insecure=False,
        root_certificates=coordinator.authority_file.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(private_key, public_key),
        ],
    )


def status_of(client: FleetHttpClient, call: str, request: Any) -> tuple[int, str]:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        getattr(client, call)(request)
    client.close()
    return caught.value.response.status_code, caught.value.response.text


def test_an_unregistered_key_is_turned_away(uni: Deployment) -> None:
    key = new_key()
    request = ActivateNodeRequest(public_key=flower_bytes(key.public_key()), heartbeat_interval=30)
    status, told = status_of(fleet(uni, key, key.public_key()), "ActivateNode", request)
    assert status == 401
    assert "is not registered; send the join file" in told


def test_a_registered_key_without_its_private_half_is_turned_away(uni: Deployment) -> None:
    """Public keys are no secret: showing north's opens the door, but Flower wants its signature."""
    north = read_node_key(uni.folder / "fedderm-north" / "node.key").public_key()
    request = ActivateNodeRequest(public_key=flower_bytes(north), heartbeat_interval=30)
    status, told = status_of(fleet(uni, new_key(), north), "ActivateNode", request)
    assert status == 401
    assert "Invalid SuperNode authentication" in told


def test_a_site_cannot_read_anothers_messages(uni: Deployment) -> None:
    north = read_node_key(uni.folder / "fedderm-north" / "node.key")
    request = PullMessagesRequest(node=Node(node_id=uni.keys()["south"]["node_id"]))
    status, _ = status_of(fleet(uni, north, north.public_key()), "PullMessages", request)
    assert status == 401


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream", ""])
def test_a_call_that_flower_cannot_check_is_not_answered(uni: Deployment, kind: str) -> None:
    """Flower looks at signatures in calls of its own kind alone; others must lead nowhere."""
    north = read_node_key(uni.folder / "fedderm-north" / "node.key").public_key()
    coordinator = Coordinator.open(uni.coordinator)
    request = PullMessagesRequest(node=Node(node_id=uni.keys()["north"]["node_id"]))
    answer = httpx.post(
        f"https://{coordinator.address}/v1/fleet/pull-messages",
        content=request.SerializeToString(),
        headers={"flwr-public-key": base64.b64encode(flower_bytes(north)).decode(), "content-type": kind},
        verify=str(coordinator.authority_file),
    )
    assert answer.status_code in (400, 401, 415, 422), answer.text


def test_the_control_door_wants_the_token(uni: Deployment) -> None:
    coordinator = Coordinator.open(uni.coordinator)
    verify = str(coordinator.authority_file)
    for call in ("/v1/control/start-run", "/v1/runtime/acquire-task"):
        url = f"https://{coordinator.control_address}{call}"
        for credentials in ({}, {"authorization": "Bearer wrong"}):
            headers = {"content-type": "application/protobuf", **credentials}
            answer = httpx.post(url, headers=headers, verify=verify)
            assert answer.status_code in (401, 403), (call, answer.text)


# Code that a server would like to have run

SERVER = """
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    asked = [Message(RecordDict(), node, "query") for node in grid.get_node_ids()]
    told = [one.error.reason if one.has_error() else "answered" for one in grid.send_and_receive(asked)]
    Path(context.run_config["told"]).write_text("\\n".join(told))
"""
CLIENT = """
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

STOLEN = Path({stolen!r})
STOLEN.write_text("imported")
app = ClientApp()

@app.query()
def query(message, context):
    STOLEN.write_text(str(context.node_config))
    return Message(RecordDict(), reply_to=message)
"""
BUNDLE = """
[project]
name = "fedderm"
version = "0.1.0"
dependencies = []
[tool.flwr.app]
publisher = "fedderm"
[tool.flwr.app.components]
serverapp = "curious_server:app"
clientapp = "curious_client:app"
[tool.flwr.app.config]
told = ""
"""


def test_a_hospital_does_not_run_what_a_server_sends(uni: Deployment, tmp_path: Path) -> None:
    """The bundle brings a ClientApp of its own; sites answer with the installed one, which refuses."""
    stolen, answers = tmp_path / "stolen", tmp_path / "told"
    files = {
        "pyproject.toml": BUNDLE,
        "curious_server.py": SERVER,
        "curious_client.py": CLIENT.format(stolen=str(stolen)),
    }
    content, _ = build_fab_from_files({name: text.encode() for name, text in files.items()})
    with control(Coordinator.open(uni.coordinator)) as calls:
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        run_id = calls.start(fab, {"told": str(answers)})
        uni.until(lambda: calls.run(run_id).status.startswith("finished"), "the curious run ends")
    told = answers.read_text().splitlines()
    assert len(told) == 2
    assert all("the server one that does not tell its version" in one for one in told), told
    assert not stolen.exists()


def test_ctrl_c_stops_a_run_that_can_be_gone_on_with_and_the_next_run_is_answered(
    uni: Deployment, tmp_path: Path
) -> None:
    """In the roll call, while nodes are about to answer: each stop may catch them at another point."""
    for turn in range(3):
        path = experiment(tmp_path / f"stopped{turn}", rounds=50)
        uni.start("run", "run", uni.coordinator, path)
        uni.until(lambda: "roll call" in uni.log("run"), "the run begins")
        time.sleep(0.7 * turn)
        assert uni.stop("run") == 130
        assert f"go on with: fedderm deploy run {uni.coordinator} --resume" in uni.log("run")
        with control(Coordinator.open(uni.coordinator)) as calls:
            assert calls.runs(limit=1)[0].status == "finished:stopped"
    path = experiment(tmp_path / "after", rounds=1)
    told = process("deploy", "run", uni.coordinator, path, cwd=tmp_path)
    assert told.code == 0, told


# A new key, a revoked key


def test_a_new_key_takes_over_while_the_node_runs(uni: Deployment) -> None:
    kit, old = uni.folder / "fedderm-south", uni.keys()["south"]
    assert fedderm("deploy", "rotate", kit).code == 0
    assert fedderm("deploy", "register", uni.coordinator, kit / "south.join.json").code == 0
    new = uni.keys()["south"]
    assert new["fingerprint"] != old["fingerprint"]
    assert new["node_id"] not in (None, old["node_id"])
    uni.until(lambda: uni.state("south") == "online", "south is back with its new key")
    assert f"the new key {new['fingerprint']} is registered" in uni.log("south")
    assert uni.processes["south"].poll() is None
    assert not (kit / "node.next.key").exists()


def test_a_revoked_site_is_out_although_it_is_connected_and_stays_out(uni: Deployment) -> None:
    assert uni.state("north") == "online"
    told = fedderm("deploy", "revoke", uni.coordinator, "north", "--reason", "left the study")
    assert told.code == 0, told
    assert "is not running" not in told.out
    assert uni.state("north") == "revoked"
    assert uni.processes.pop("north").wait(timeout=300) == 2, "with its next heartbeat"
    sentence = "the key of north was revoked on"
    assert sentence in uni.log("north")
    assert "(left the study); call the coordinator" in uni.log("north")
    again = process("deploy", "supernode", uni.folder / "fedderm-north", cwd=uni.folder)
    assert sentence in again.err
    assert again.code == 2
    assert "Traceback" not in again.err
    assert uni.state("south") == "online"


def test_all_end_when_asked_and_leave_no_process(uni: Deployment) -> None:
    assert uni.stop("south") == 130
    assert uni.stop("superlink") == 0
    uni.until(lambda: not uni.left(), "no process is left")
