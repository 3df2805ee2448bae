"""Client-level privacy: each site's update is clipped, and the mean gets the noise epsilon counts with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import new_run, run_in_memory
from flwr.app import ConfigRecord
from memory_grid import MemoryGrid, members
from numpy.typing import NDArray
from test_combinations import check
from test_half_precision import model, site

from fedderm.privacy_ledger import Spent, epsilon
from fedderm.report import build_report
from strategies.arrays import view
from strategies.catalogue import build
from strategies.round_settings import RoundSettings
from strategies.rounds import train_round

PARAMETERS = {"noise_multiplier": 1.0, "clipping_norm": 1.0, "sites": 2}
PRIVATE = {"name": "dpfedavg", "weighting": "equal", "parameters": PARAMETERS}


def a_round(steps: tuple[float, ...], noise: float, size: int = 20_000) -> NDArray[Any]:
    """Return w after a round of sites that move its first value by ``steps``, the others not at all."""

    def moving(step: float) -> Any:
        def train(arrays: dict[str, NDArray[Any]]) -> None:
            arrays["w"][0] += step

        return site(train, 10)

    sites = members(*(10 for _ in steps))
    grid = MemoryGrid({one.node_id: moving(step) for one, step in zip(sites, steps, strict=True)})
    strategy = build("dpfedavg", noise_multiplier=noise, clipping_norm=1.0, sites=len(steps))
    settings = RoundSettings(deadline_s=10, quorum=1.0, fraction=1.0, seed=0, weighting="equal")
    start = model(np.zeros(size, np.float32))
    return view(train_round(strategy, grid, 1, start, ConfigRecord({}), sites, settings).arrays["w"])


def test_updates_are_clipped_to_the_norm() -> None:
    """Moves of 3, 3, -5 and 0.5 become 1, 1, -1 and 0.5, whose mean is 0.375."""
    found = a_round((3.0, 3.0, -5.0, 0.5), noise=0.0)
    assert float(found[0]) == pytest.approx(0.375, abs=1e-6)
    assert not found[1:].any()


def test_a_site_that_moves_nothing_is_no_reason_to_lose_the_round() -> None:
    assert float(a_round((0.0, 1.0), noise=0.0)[0]) == pytest.approx(0.5, abs=1e-5)


def test_the_noise_is_the_multiplier_times_the_norm_over_the_sites() -> None:
    found = a_round((0.0, 0.0, 0.0, 0.0), noise=2.0)
    assert float(found.std()) == pytest.approx(2.0 * 1.0 / 4, rel=0.03)


def test_a_run_says_what_it_cost(tmp_path: Path) -> None:
    pytest.importorskip("opacus")
    folder = new_run(tmp_path, rounds=2, strategy=PRIVATE)
    run_in_memory(folder)
    told = [entry["client_epsilon"] for entry in folder.state()["history"]]
    assert told == [pytest.approx(epsilon([Spent("", 1, 1.0, 1.0, n)], 1e-5)) for n in (1, 2)]
    page = build_report(folder.path).read_text(encoding="utf-8")
    assert f"at most epsilon {told[-1]:.2f}" in page


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parameters": {**PARAMETERS, "sites": 3}}, "sites is 3 and 2 sites train"),
        ({"weighting": "examples"}, "set strategy.weighting: equal"),
        ({"fraction": 0.5}, "set strategy.fraction and quorum to 1"),
    ],
)
def test_what_epsilon_does_not_count_with_is_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        check(tmp_path, strategy={**PRIVATE, **changes})
