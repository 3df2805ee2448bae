"""Rounds over real processes: a SuperLink, SuperNodes, a server app; killed, stopped, late, and begun again.

Sites are small (``link_app``): Flower starts a process for each message, and importing torch for each would
take minutes. Roll call, rounds, guard, run folder and strategy are fedderm's own. Each site adds its step to
the model: a, of 10 images, adds 1; b, of 20, adds 2; c, of 10, adds 4. All: (10 + 40 + 40) / 40 = 2.25.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
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
    """A SuperLink, a SuperNode for each site, and fedderm's rounds over them."""

    def __init__(self, flower: Flower, root: Path, rounds: int, **strategy: Any) -> None:
        flower.environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.flower = flower
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


def was_missing(name: str, refused: dict[str, str]) -> bool:
    """Return whether this site alone is left out: it was silent, or sent no heartbeat for a minute."""
    (sentence,) = refused.values()
    words = (f"site {name}: no answer within ", f"site {name}: Error: Node Unavailable")
    return list(refused) == [name] and sentence.startswith(words)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_late_site_and_a_killed_site_are_named_and_the_rounds_go_on(flower: Flower, tmp_path: Path) -> None:
    """Round 1: all, 2.25. Round 2: c is stopped in the middle (SIGSTOP) past the deadline: a and b alone add
    (10 + 40) / 30. Round 3: c goes on, its reply to round 2 comes now and counts for nothing; all add 2.25.
    Where c was still for a minute, Flower itself takes it as gone until it is heard of, in round 3, too.
    Round 4: b is killed (SIGKILL) in the middle: a and c add (10 + 40) / 20."""
    link = Link(flower, tmp_path, rounds=5, quorum=0.3, deadline=50.0)
    link.hold("c", 2)
    link.hold("b", 4)
    link.serve()
    link.until(lambda: link.began("c", 2), "c trains in round 2")
    link.signal("c", signal.SIGSTOP)
    link.until(lambda: link.began("a", 3), "round 2 ends without c")
    assert link.state()["round"] == 2
    link.release("c", 2)
    link.signal("c", signal.SIGCONT)
    link.until(lambda: link.ended("c", 2), "c's old training ends in round 3")
    assert link.state()["round"] == 2, "while round 3 is still under way"
    link.until(lambda: link.began("b", 4), "b trains in round 4")
    link.signal("b", signal.SIGKILL)
    link.until(lambda: link.state()["round"] == 4, "round 4 ends without b")
    first, second, third, fourth = link.refused()
    assert first == {}
    assert was_missing("c", second)
    assert third == {} or was_missing("c", third)
    assert was_missing("b", fourth)
    expected = 2.25 + 50 / 30 + (50 / 30 if third else 2.25) + 50 / 20
    assert link.model() == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_server_app_and_then_the_superlink_are_killed_in_mid_round(
    flower: Flower, tmp_path: Path
) -> None:
    """Resumed each time, the run ends where an unbroken one does: 3 x 2.25 = 6.75, to the last bit."""
    link = Link(flower, tmp_path, rounds=3, deadline=PATIENCE)
    link.hold("b", 2)
    link.serve()
    link.until(lambda: link.began("b", 2), "b trains in round 2")
    link.kill_server_app()
    link.release("b", 2)
    assert link.state()["round"] == 1

    link.hold("b", 3)
    link.serve()
    link.until(lambda: link.began("b", 3), "the resumed run comes to round 3")
    link.superlink.kill()
    link.superlink.wait()
    link.release("b", 3)
    assert link.state()["round"] == 2

    for name in SITES:  # SuperNodes that a SuperLink does not know any more end by themselves
        link.signal(name, signal.SIGKILL)
    link.superlink = flower.start()
    for name in SITES:
        link.start_node(name)
    link.serve()
    link.until(lambda: bool(link.state()["finished"]), "the run ends")
    assert link.refused() == [{}] * 3
    assert link.model() == 6.75
