"""The report says who trained the model, and in how many rounds."""

import json
from pathlib import Path

import pytest
from report_runs import ROUNDS, write_run

from fedderm.report.build import render
from fedderm.report.folder import read_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def without(run: Path, site: str, rounds: range) -> None:
    """Take a site's updates out of some rounds of a run's record."""
    path = run / "rounds" / "state.json"
    state = json.loads(path.read_text())
    for entry in state["history"]:
        if entry["round"] in rounds:
            entry["sites"].pop(site, None)
    path.write_text(json.dumps(state))


def test_a_site_that_missed_a_round_is_part_of_the_others(run: Path) -> None:
    found = read_run(run)
    assert [found.rounds_trained(name) for name in ("rosendahl", "MSK4")] == [ROUNDS, ROUNDS - 1]
    page = render(read_run(run))
    assert page.count("part of the model in") == 1
    assert f"part of the model in {ROUNDS - 1} of {ROUNDS} rounds" in page
    assert "took no part in any round" not in page


def test_a_site_that_never_trained_is_not_counted_among_those_who_did(run: Path) -> None:
    before = render(read_run(run))
    assert "4 sites with" in before
    without(run, "MSK4", range(1, ROUNDS + 1))
    page = render(read_run(run))
    assert "3 sites with" in page
    assert "MSK4 took no part in any round" in page
    assert f"part of the model in 0 of {ROUNDS} rounds" in page
