"""Flower's own processes for tests: SuperLink and SuperNodes with a home and ports of their own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest


class Flower:
    """Flower's command line with a home, a port and a Ray folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.port = free_port()
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self.home),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(self.port),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(folder),
        }
        self.connect(":local:")

    def connect(self, address: str) -> None:
        """Name the SuperLink that ``flwr run`` uses; ``:local:`` is one that it starts itself."""
        lines = ["[superlink]", 'default = "local"', "[superlink.local]", f'address = "{address}"']
        if address != ":local:":
            lines.append("insecure = true")
        (self.home / "config.toml").write_text("\n".join(lines))

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a SuperLink and return once it answers; ``flwr run`` itself waits only 15 s for it."""
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        process = subprocess.Popen(
            ["flower-superlink", "--insecure", *options, "--isolation", "subprocess", *where],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"the SuperLink did not start (exit code {process.poll()})")
                time.sleep(0.2)
        self.connect(f"127.0.0.1:{self.port}")
        return process

    def node(self, config: str, **marks: str) -> subprocess.Popen[bytes]:
        """Start a SuperNode with this node config; ``marks`` are variables that its processes inherit."""
        where = ["--insecure", "--superlink", f"127.0.0.1:{self.port}", "--port", str(free_port())]
        with (self.home / "supernodes.log").open("a") as log:
            return subprocess.Popen(
                ["flower-supernode", *where, "--node-config", config, "--isolation", "subprocess"],
                env={**self.environment, **marks},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def run(self, app: Path, config: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the app with ``config`` as its run config, and return when it has ended."""
        return subprocess.run(
            ["flwr", "run", str(app), *options, "--run-config", config, "--stream"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def processes(self, mark: str = "") -> dict[int, str]:
        """Return the command lines of the processes that inherited this home, by id.

        ``mark`` is another variable, ``NAME=value``, that they must have inherited too.
        """
        found = {}
        marks = {f"FLWR_HOME={self.home}".encode(), mark.encode()} - {b""}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if marks <= set((process / "environ").read_bytes().split(b"\0")):
                    found[int(process.name)] = (
                        (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    )
            except OSError:
                continue
        return {pid: line for pid, line in found.items() if line}

    def kill(self, mark: str = "", number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the processes of this home, or to those of them that inherited the mark."""
        for pid in self.processes(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def gone(self, within_s: float) -> bool:
        end = time.monotonic() + within_s
        while self.processes():
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])
