"""fedderm's rounds over real processes: a SuperLink, SuperNodes, and small sites (``link_app``) at them.

Flower starts a process for each message, and importing torch for each would take minutes. Each site adds its
step to the model: a, of 10 images, adds 1; b, of 20, adds 2; c, of 10, adds 4.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from federations import new_run
from flower_processes import Flower
from safetensors.numpy import load_file

APP = Path(__file__).resolve().parent / "link_app"
ROOT = APP.parents[1]
SITES = {"a": (10, 1.0), "b": (20, 2.0), "c": (10, 4.0)}
PATIENCE = 600.0
"""Seconds for what takes ten on an idle machine."""


class Link:
    """A SuperLink, a SuperNode for each site, and fedderm's rounds over them.

    ``poison``: what c sends in place of its update, a word for each round (``link_app/steps_client.py``).
    """

    def __init__(
        self, flower: Flower, root: Path, rounds: int, poison: Sequence[str] = (), **strategy: Any
    ) -> None:
        flower.environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.flower = flower
        self.poison = poison
        self.gate = root / "gate"
        self.gate.mkdir()
        sites = [{"name": name, "lesions": 30} for name in SITES]
        self.folder = new_run(
            root,
            sites,
            rounds=rounds,
            strategy=strategy,
            evaluation={"every": 100},
            tracking={"tensorboard": False},
        )
        self.log = root / "flwr-run.log"
        self.superlink = flower.start()
        for name in SITES:
            self.start_node(name)

    def start_node(self, name: str) -> None:
        images, step = SITES[name]
        held = f'site="{name}" images={images} step={step} gate="{self.gate}"'
        if name == "c" and self.poison:
            held += f' poison="{" ".join(self.poison)}"'
        self.flower.node(held, FEDDERM_TEST_SITE=name)

    def serve(self) -> subprocess.Popen[bytes]:
        """Start ``flwr run``: to the end of the run, or on from its last finished round."""
        with self.log.open("a") as log:
            return subprocess.Popen(
                ["flwr", "run", str(APP), "--run-config", f'run="{self.folder.path}"', "--stream"],
                env=self.flower.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def until(self, happened: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > end:
                pytest.fail(f"it did not come to it: {what}\n{self.log.read_text()}")
            time.sleep(0.1)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to all processes of a site: its SuperNode and the app that trains."""
        self.flower.kill(f"FEDDERM_TEST_SITE={name}", number)

    def kill_server_app(self) -> None:
        found = [pid for pid, line in self.flower.processes().items() if "flwr-serverapp" in line]
        assert found, "there is a server app to kill"
        for pid in found:
            os.kill(pid, signal.SIGKILL)

    def hold(self, name: str, number: int) -> None:
        (self.gate / f"{name}-{number}.hold").touch()

    def release(self, name: str, number: int) -> None:
        (self.gate / f"{name}-{number}.hold").unlink()

    def began(self, name: str, number: int) -> bool:
        return (self.gate / f"{name}-{number}.began").exists()

    def ended(self, name: str, number: int) -> bool:
        return (self.gate / f"{name}-{number}.ended").exists()

    def state(self) -> dict[str, Any]:
        return self.folder.state()

    def refused(self) -> list[dict[str, str]]:
        return [entry["refused"] for entry in self.state()["history"]]

    def model(self) -> float:
        (first, second) = load_file(self.folder.checkpoint(self.state()["round"]))["w"].tolist()
        assert first == second
        return float(first)
