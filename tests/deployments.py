"""A federation of real processes on the loopback: coordinator's folder, kits, SuperLink, SuperNodes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Result, fedderm
from flower_processes import free_port

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 600.0
"""Seconds for what takes a few on an idle machine."""


class Deployment:
    """The folders of a coordinator and of its hospitals, and the processes started over them."""

    def __init__(self, folder: Path, host: str = "localhost", at: Mapping[str, Sequence[str]] = {}) -> None:
        """Take a folder, the server's address, and, by process, what runs it on a host of its own."""
        self.folder = folder
        self.host = host
        self.at = at
        self.coordinator = folder / "fed"
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def init(self, *options: str) -> Result:
        """Make the federation ``uni`` at free ports."""
        where = ("--host", self.host, "--port", str(free_port()), "--control-port", str(free_port()))
        return fedderm("deploy", "init", self.coordinator, "--name", "uni", *where, *options)

    def kit(self, site: str) -> Path:
        """Return the folder of a new kit, unpacked as a hospital would."""
        told = fedderm("deploy", "kit", self.coordinator, site)
        assert told.code == 0, told
        with zipfile.ZipFile(self.coordinator / "kits" / f"fedderm-{site}.zip") as packed:
            packed.extractall(self.folder)
        return self.folder / f"fedderm-{site}"

    def join(self, site: str, description: dict[str, Any] | None = None) -> Path:
        """Return the join file of a new kit's hospital, whose site file holds ``description``."""
        kit = self.kit(site)
        written = {"name": site, "source": "simulated", "lesions": 30, **(description or {})}
        (kit / "site.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
        told = fedderm("deploy", "join", kit, "--site", kit / "site.yaml")
        assert told.code == 0, told
        return kit / f"{site}.join.json"

    def register(self, join_file: Path) -> Result:
        """Register a join file, as if its fingerprint had been read out on the telephone."""
        heard = stated(join_file)["fingerprint"]
        return fedderm("deploy", "register", self.coordinator, join_file, "--fingerprint", heard)

    def start(self, name: str, *arguments: str | Path) -> None:
        """Start ``fedderm deploy ...`` in a process of its own, which writes to ``NAME.log``."""
        with self.log_file(name).open("w") as log:
            self.processes[name] = subprocess.Popen(
                [
                    *self.at.get(name, ()),
                    sys.executable,
                    "-c",
                    "from fedderm.cli import main; main()",
                    "deploy",
                    *map(str, arguments),
                ],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def superlink(self) -> None:
        """Start the SuperLink and return once it is open."""
        self.start("superlink", "superlink", self.coordinator)
        self.until(lambda: f"open at {self.host}" in self.log("superlink"), "the SuperLink is open")

    def supernode(self, site: str) -> None:
        """Start a hospital's SuperNode and return once the SuperLink sees it."""
        self.start(site, "supernode", self.folder / f"fedderm-{site}")
        self.until(lambda: self.state(site) == "online", f"{site} is online")

    def stop(self, name: str) -> int:
        """Ask a process to end and return its exit code."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=60)

    def log_file(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_file(name).read_text(encoding="utf-8")

    def state(self, site: str) -> str:
        """Return what ``fedderm deploy status`` says of a site."""
        told = fedderm("deploy", "status", self.coordinator)
        assert told.code == 0, told
        lines = [line.split() for line in told.out.splitlines() if line.startswith(f"{site} ")]
        return lines[-1][1]

    def keys(self) -> dict[str, dict[str, Any]]:
        """Return the register's keys that are not revoked, by site."""
        known = json.loads((self.coordinator / "register.json").read_text())["keys"]
        return {key["site"]: key for key in known if key["revoked"] is None}

    def until(self, happened: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > end:
                logs = "\n".join(path.read_text()[-3000:] for path in self.folder.glob("*.log"))
                pytest.fail(f"it did not come to it: {what}\n{logs}")
            time.sleep(0.5)

    def close(self) -> None:
        """End what is running, by id, whatever state it is in, and take the folder away."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.kill()
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def left(self) -> list[int]:
        """Return the ids of Flower's processes of this federation, which inherited a home in its folder."""
        mark, found = f"FLWR_HOME={self.folder}/".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = (process / "environ").read_bytes().split(b"\0")
                if any(one.startswith(mark) for one in variables):
                    found.append(int(process.name))
        return found


def stated(join_file: Path) -> dict[str, Any]:
    """Return what a join file states."""
    return dict(json.loads(json.loads(join_file.read_text())["statement"]))
