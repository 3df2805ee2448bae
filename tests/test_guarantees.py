"""Certified thresholds keep their promise at 2,000 simulated sites, and break where their assumption does."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

# The benchmarks are not part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.guarantee_sites import Row, Scenario, _oracle, simulate
from benchmarks.guarantees import SCENARIOS, surprising, table

SITES = 2000


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_methods_hold_and_break_as_expected(scenario: Scenario) -> None:
    for row in simulate(scenario, SITES, seed=7):
        assert not surprising(row), row


@pytest.mark.parametrize(("sites", "positives"), [(3, 0), (3, 28), (5, 12), (20, 5), (20, 60)])
@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0])
def test_the_informed_threshold_holds_whatever_the_spread(sites: int, positives: int, spread: float) -> None:
    scenario = Scenario(
        name="", methods=("informed",), training_sites=sites, positives=positives, spread=spread
    )
    (row,) = simulate(scenario, SITES, seed=8)
    assert row.offered > 0.95 * SITES
    assert row.found == "holds", row


def test_the_informed_threshold_costs_less_than_the_sites_own() -> None:
    """At 40 malignant lesions, where the site's own is the lowest of its scores."""
    rows = {row.method: row for row in simulate(SCENARIOS[0], SITES, seed=9)}
    assert rows["informed"].cost < rows["site"].cost - 0.05


def test_fewer_lesions_are_offered_a_dearer_threshold_not_a_worse_promise() -> None:
    base = replace(SCENARIOS[0], methods=("informed",))
    costs = [simulate(replace(base, positives=n), SITES, seed=10)[0].cost for n in (0, 12, 28, 60)]
    assert costs == sorted(costs, reverse=True)


def test_the_fallback_is_what_is_left_at_an_unlike_site() -> None:
    """With 14 or more lesions of its own, at most 25 % of sites get too high a threshold."""
    for device in (-0.75, -1.5, -3.0):
        scenario = Scenario(name="", methods=("informed",), device=device, positives=40)
        (row,) = simulate(scenario, SITES, seed=11)
        assert row.violations / SITES <= 0.25 + 3 * (0.25 * 0.75 / SITES) ** 0.5


def test_the_oracle_is_the_closed_form() -> None:
    scenario = SCENARIOS[0]
    assert _oracle("site", scenario) == pytest.approx(1.5 + norm.ppf(0.1), abs=2e-3)
    referred = _oracle("referral", scenario)
    share = 0.2 * norm.sf(referred - 1.5) + 0.8 * norm.sf(referred + 1)
    assert share == pytest.approx(0.5, abs=1e-3)


def test_the_table_marks_what_was_not_expected() -> None:
    row = Row("a", "site", "holds", 2000, 2000, 200, 0.1)
    assert row.found == "breaks"
    assert "breaks (not expected)" in table([row])
    assert "| 10.0 | 8.7–11.4 | 0.100 | 100.0 |" in table([row])
    assert replace(row, violations=100).found == "holds"
    assert replace(row, offered=0, violations=0, cost=np.nan).found == "never offered"
