"""Rounds over real processes: a SuperLink, SuperNodes, a server app; killed, stopped, late, and begun again.

Sites are small (``link_app``): Flower starts a process for each message, and importing torch for each would
take minutes. Roll call, rounds, guard, run folder and strategy are fedderm's own. Each site adds its step to
the model: a, of 10 images, adds 1; b, of 20, adds 2; c, of 10, adds 4. All: (10 + 40 + 40) / 40 = 2.25.
"""

import signal
from pathlib import Path

import pytest
from flower_processes import Flower
from links import PATIENCE, SITES, Link


def was_missing(name: str, refused: dict[str, str]) -> bool:
    """Return whether this site alone is left out: it was silent, or sent no heartbeat for a minute."""
    (sentence,) = refused.values()
    gone = ("Node Unavailable", "Message Unavailable")  # as Flower says it, by when it notices
    words = (f"site {name}: no answer within ", *(f"site {name}: Error: {one}" for one in gone))
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
