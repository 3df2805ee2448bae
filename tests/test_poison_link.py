"""A poisoned update over real processes: refused by name, or outvoted, and the rounds go on."""

from pathlib import Path

import pytest
from flower_processes import Flower
from links import PATIENCE, Link


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_poisoned_updates_are_named_and_the_model_is_the_honest_sites(flower: Flower, tmp_path: Path) -> None:
    """By median over the sites: a adds 1, b 2, c poison.

    Rounds 1 to 4: c sends a value that is no number, another shape, an old round and a false number of
    images, and is left out: the median of 1 and 2 is 1.5. Round 5: c sends 1e30, which is a number as any:
    the median of 1, 2 and 1e30 is 2. In all 4 x 1.5 + 2 = 8.
    """
    poison = ("nan", "shape", "round", "weight", "huge")
    link = Link(flower, tmp_path, rounds=5, poison=poison, name="fedmedian", quorum=0.6, deadline=PATIENCE)
    link.serve()
    link.until(lambda: bool(link.state()["finished"]), "the run ends")
    found = link.refused()
    assert [list(one) for one in found] == [["c"]] * 4 + [[]]
    words = (
        "not finite",
        "expected float32[2]",
        "its reply is for round 2; round 3",
        "10000 training images",
    )
    for sentences, expected in zip(found, words, strict=False):
        assert sentences["c"].startswith("site c: ")
        assert expected in sentences["c"]
    assert link.model() == pytest.approx(8.0)
