"""A federation over hosts of their own: each hospital in a network namespace with one way out, to the server.

Nothing else can be reached from there, no name server and no hub: what a node wants beyond the coordinator's
address would fail, and shows among its connections. One hospital's cable is pulled in the middle of the run.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployments import Deployment
from federations import only_run, simulated, write_config

from fedderm.deploy.coordinator import Coordinator
from fedderm.runs import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NAMES = ("north", "south")
NET = f"10.{200 + os.getpid() % 50}"
SERVER = f"{NET}.1.1"
PULLED_S = 60.0
"""Seconds: longer than Flower's node needs between two heartbeats."""


def ip(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


class Hosts:
    """A namespace for each hospital, and a cable to this host, which answers at ``SERVER``."""

    def __init__(self) -> None:
        mark = f"fd{os.getpid() % 100_000}"
        self.names = {name: f"{mark}{name}" for name in NAMES}
        self.cables = {name: f"{mark}v{number}" for number, name in enumerate(NAMES, start=1)}
        self.seen: dict[str, set[str]] = {name: set() for name in NAMES}
        self._over = threading.Event()

    def made(self) -> bool:
        """Return whether this machine lets us."""
        for number, name in enumerate(NAMES, start=1):
            host, cable = self.names[name], self.cables[name]
            done = [
                ip("netns", "add", host),
                ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host),
                ip("addr", "add", f"{NET}.{number}.1/30", "dev", cable),
                ip("link", "set", cable, "up"),
                ip("-n", host, "addr", "add", f"{NET}.{number}.2/30", "dev", "eth0"),
                ip("-n", host, "link", "set", "eth0", "up"),
                ip("-n", host, "link", "set", "lo", "up"),
                ip("-n", host, "route", "add", "default", "via", f"{NET}.{number}.1"),
            ]
            if any(one.returncode for one in done):
                return False
        with socket.create_server((SERVER, 0)) as there:
            call = f"import socket; socket.create_connection(('{SERVER}', {there.getsockname()[1]}), 20)"
            for host in self.names.values():  # a machine's own firewall may forbid it
                if ip("netns", "exec", host, sys.executable, "-c", call).returncode:
                    return False
        threading.Thread(target=self._look, daemon=True).start()
        return True

    def _look(self) -> None:
        """Note with whom the hospitals' hosts talk, over TCP and UDP, beside themselves."""
        while not self._over.wait(0.2):
            for name, host in self.names.items():
                told = ip("netns", "exec", host, "ss", "-Htun")
                for line in told.stdout.splitlines():
                    peer = line.split()[5]
                    if not peer.startswith(("127.", "[::1]", "[::ffff:127.")):
                        self.seen[name].add(peer)

    def close(self) -> None:
        self._over.set()
        for name in NAMES:
            ip("link", "del", self.cables[name])
            ip("netns", "del", self.names[name])


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces take root")
    made = Hosts()
    try:
        if subprocess.run(["which", "ip", "ss"], capture_output=True, check=False).returncode:
            pytest.skip("ip and ss (iproute2) are not installed")
        if not made.made():
            pytest.skip("this machine does not let the tests make network namespaces that reach it")
        yield made
    finally:
        made.close()


def test_hospitals_on_hosts_of_their_own_reach_the_server_and_nothing_else(hosts: Hosts) -> None:
    at = {name: ("ip", "netns", "exec", host) for name, host in hosts.names.items()}
    made = Deployment(Path(tempfile.mkdtemp(prefix="fh", dir="/tmp")), SERVER, at)
    try:
        assert made.init().code == 0
        sites = [simulated(name, 24) for name in NAMES]
        for site in sites:
            assert made.register(made.join(str(site["name"]), site)).code == 0
        made.superlink()
        for name in NAMES:
            made.supernode(name)
        root = made.folder / "run"
        root.mkdir()
        changes = {"strategy": {"deadline": 45.0, "quorum": 0.5}, "evaluation": {"every": 1000}}
        config = write_config(root, sites, rounds=500, tracking={"tensorboard": False}, **changes)
        made.start("run", "run", made.coordinator, config)
        made.until(lambda: "round 3/500: train" in made.log("run"), "two rounds have ended")
        run = only_run(root)

        def history() -> list[dict[str, dict[str, str]]]:
            return list(RunFolder.open(run).state()["history"])

        assert all(set(entry["sites"]) == set(NAMES) for entry in history())
        ip("link", "set", hosts.cables["south"], "down")
        begin = time.monotonic()
        made.until(lambda: any("south" in entry["refused"] for entry in history()), "south is missed")
        time.sleep(max(0.0, begin + PULLED_S - time.monotonic()))
        ip("link", "set", hosts.cables["south"], "up")
        ip("-n", hosts.names["south"], "route", "add", "default", "via", f"{NET}.2.1")
        after = len(history()) + 1
        made.until(
            lambda: any("south" in entry["sites"] for entry in history()[after:]), "south counts again"
        )
        assert made.stop("run") == 130
        assert made.processes["south"].poll() is None
        port = Coordinator.open(made.coordinator).settings.port
        for name in NAMES:
            assert hosts.seen[name] == {f"{SERVER}:{port}"}, "it talked with nobody else"
    finally:
        made.close()
