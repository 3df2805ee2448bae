"""A run over three hospitals' real nodes: one is killed, one's network is cut for a minute, one's disk fills.

Each is missed while it is away, by name in the record, and counts again afterwards.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import fedderm
from deployments import Deployment
from federations import only_run, simulated, write_config
from loose_cable import LooseCable

from fedderm.deploy.coordinator import Coordinator
from fedderm.runs import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NAMES = ("north", "south", "coast")
DEADLINE = 45.0
CUT_S = 60.0
"""Seconds: longer than Flower's node needs between two heartbeats."""


class Going:
    """The run under way, and what its record says."""

    def __init__(self, made: Deployment, cable: LooseCable, run: Path) -> None:
        self.made = made
        self.cable = cable
        self.run = run

    def history(self) -> list[dict[str, Any]]:
        return list(RunFolder.open(self.run).state()["history"])

    def missed(self, site: str) -> list[str]:
        """Return why the site's replies did not count, a sentence for each of its missed rounds."""
        return [entry["refused"][site] for entry in self.history() if site in entry["refused"]]

    def until_missed(self, site: str) -> None:
        self.made.until(lambda: bool(self.missed(site)), f"{site} is missed")

    def until_counted(self, site: str) -> None:
        """Wait for a round that begins from now on and has the site's reply."""
        after = len(self.history()) + 1
        self.made.until(
            lambda: any(site in entry["sites"] for entry in self.history()[after:]), f"{site} counts again"
        )


@pytest.fixture(scope="module")
def going() -> Iterator[Going]:
    made = Deployment(Path(tempfile.mkdtemp(prefix="ff", dir="/tmp")))
    cable = None
    try:
        assert made.init().code == 0
        cable = LooseCable(Coordinator.open(made.coordinator).settings.port)
        sites = [simulated(name, 24) for name in NAMES]
        for site in sites:
            assert made.register(made.join(str(site["name"]), site)).code == 0
        behind = made.folder / "fedderm-south" / "kit.json"
        kit = json.loads(behind.read_text())
        behind.write_text(json.dumps({**kit, "server": f"localhost:{cable.port}"}))
        (made.folder / "fedderm-coast" / "site.record").mkdir(mode=0o700)
        made.superlink()
        for name in NAMES:
            made.supernode(name)
        root = made.folder / "run"
        root.mkdir()
        config = write_config(
            root,
            sites,
            rounds=500,
            strategy={"deadline": DEADLINE, "quorum": 0.3},
            evaluation={"every": 1000},
            tracking={"tensorboard": False},
        )
        made.start("run", "run", made.coordinator, config)
        made.until(lambda: "round 3/500: train" in made.log("run"), "two rounds have ended")
        yield Going(made, cable, only_run(root))
    finally:
        made.close()
        if cable is not None:
            cable.close()


def killed(made: Deployment, site: str) -> None:
    """Kill all of a node's processes, as when the machine loses power: nobody says goodbye."""
    node = made.processes.pop(site)
    mark = f"FLWR_HOME={made.folder / f'fedderm-{site}' / 'flower'}".encode()
    for pid in made.left():
        if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            os.kill(pid, signal.SIGKILL)
    node.kill()
    node.wait()


def test_a_hospital_that_is_killed_in_mid_round_comes_back(going: Going) -> None:
    made = going.made
    killed(made, "north")
    going.until_missed("north")
    assert fedderm("deploy", "status", made.folder / "fedderm-north").code == 2
    made.supernode("north")
    going.until_counted("north")


def test_a_network_that_is_cut_for_a_minute(going: Going) -> None:
    going.cable.cut.set()
    begin = time.monotonic()
    try:
        going.until_missed("south")
        time.sleep(max(0.0, begin + CUT_S - time.monotonic()))
        rounds = len(going.history())
        going.made.until(lambda: len(going.history()) > rounds, "the others go on")
    finally:
        going.cable.cut.clear()
    going.until_counted("south")
    assert going.made.processes["south"].poll() is None


def test_a_hospital_that_is_killed_while_it_uploads_holds_no_round_longer_than_its_deadline(
    going: Going,
) -> None:
    """Its reply is announced, and a part of it there: Flower alone would wait three minutes for the rest."""
    made, cable = going.made, going.cable
    before = len(going.missed("south"))
    cable.cut_after(400_000)  # of 1.5 MB
    try:
        made.until(cable.cut.is_set, "south is in the middle of its upload")
        killed(made, "south")
        made.until(lambda: len(going.missed("south")) > before, "south is missed")
    finally:
        cable.cut.clear()
    assert going.missed("south")[before] == f"site south: no answer within {DEADLINE:g} s"
    made.supernode("south")
    going.until_counted("south")


@pytest.fixture
def small_disk(going: Going) -> Iterator[Path]:
    """Mount a small disk where coast keeps its record."""
    record = going.made.folder / "fedderm-coast" / "site.record"
    kept = {one.name: one.read_bytes() for one in record.iterdir() if one.is_file()}
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(record)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not let the tests mount a small disk")
    for name, content in kept.items():
        (record / name).write_bytes(content)
    yield record
    subprocess.run(["umount", "-l", str(record)], check=True)


def test_a_disk_that_fills_at_a_hospital(going: Going, small_disk: Path) -> None:
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(b"x" * 4_000_000)
    going.until_missed("coast")
    assert "the hospital's log of what leaves cannot be written" in going.missed("coast")[0]
    filler.unlink()
    going.until_counted("coast")
    told = fedderm("site", "log", going.made.folder / "fedderm-coast" / "site.yaml", "--verify")
    assert told.code == 0, told
    assert "The log is whole" in told.out


def test_the_record_says_it_all_and_no_round_is_lost(going: Going) -> None:
    made = going.made
    assert made.stop("run") == 130
    history = going.history()
    assert [entry["round"] for entry in history] == list(range(1, len(history) + 1))
    for entry in history:
        assert set(entry["sites"]) | set(entry["refused"]) == set(NAMES)
        assert entry["sites"], "at least one site taught in every round"
    for site in NAMES:
        assert going.missed(site), f"{site} was away"
        assert all(sentence.startswith(f"site {site}: ") for sentence in going.missed(site))
    told = fedderm("deploy", "status", made.coordinator)
    assert told.code == 0
    for site in NAMES:
        line = next(one for one in told.out.splitlines() if one.startswith(f"{site} "))
        assert f"/500 of {going.run.parent.name}/" in line
