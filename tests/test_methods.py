"""SCAFFOLD, FedDyn, FedNova, q-FedAvg and cyclic transfer: by hand, in their limits, and on sites whose
optimum is known.
"""

import numpy as np
import pytest
from memory_grid import f32
from quadratic_sites import QuadraticFederation, QuadraticSite, unlike_sites

from strategies import feddyn, fednova, scaffold
from strategies.catalogue import build, memory_of
from strategies.names import STRATEGIES
from strategies.site_side import LocalWork


def equal_sites() -> list[QuadraticSite]:
    """Return unlike optima with the same steps and the same number of images."""
    return [QuadraticSite(site.a, site.b) for site in unlike_sites()]


def fixed_point_of_fedavg(federation: QuadraticFederation) -> np.ndarray:
    """Return ``sum p (1 - r) b / sum p (1 - r)``, r = (1 - rate a)^steps: a site goes 1 - r of its way."""
    gone = [site.images * (1 - (1 - site.rate * site.a) ** site.steps) for site in federation.sites]
    return sum(g * site.b for g, site in zip(gone, federation.sites, strict=True)) / sum(gone)


def test_fedavg_ends_where_it_must_and_that_is_not_the_optimum() -> None:
    federation = QuadraticFederation("fedavg", unlike_sites()).run(120)
    np.testing.assert_allclose(federation.w, fixed_point_of_fedavg(federation), atol=1e-6)
    assert federation.error() > 0.1


@pytest.mark.parametrize("weighting", ["examples", "equal"])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("scaffold", {}), ("scaffold", {"server_learning_rate": 0.5}), ("feddyn", {"alpha": 0.5})],
)
def test_scaffold_and_feddyn_reach_the_pooled_optimum(
    name: str, parameters: dict[str, float], weighting: str
) -> None:
    federation = QuadraticFederation(name, unlike_sites(), parameters, weighting).run(400)
    assert federation.error() < 1e-6


@pytest.mark.parametrize(("name", "parameters"), [("scaffold", {}), ("feddyn", {"alpha": 1.0})])
def test_they_do_so_where_only_half_the_sites_take_part_in_a_round(
    name: str, parameters: dict[str, float]
) -> None:
    sites = unlike_sites(count=6)
    federation = QuadraticFederation(name, sites, parameters, fraction=0.5).run(600)
    assert federation.error() < 1e-3
    assert QuadraticFederation("fedavg", unlike_sites(count=6), fraction=0.5).run(600).error() > 0.1


def test_scaffolds_variates_become_the_sites_gradients_at_the_optimum() -> None:
    """At the optimum c is zero and c_i the gradient of F_i: what takes the drift out of every step."""
    federation = QuadraticFederation("scaffold", unlike_sites(), weighting="equal").run(400)
    np.testing.assert_allclose(federation.strategy.variate["w"], 0, atol=1e-6)
    for site in federation.sites:
        np.testing.assert_allclose(site.state["w"], site.a * (federation.optimum() - site.b), atol=1e-5)


def test_a_variate_by_hand() -> None:
    """c_i - c + (x - y) / (K eta) = 1 - 3 + (8 - 6) / 0.5 = 2."""
    work = LocalWork({"w": f32(8)}, {"w": f32(6)}, {"w": 0.5})
    np.testing.assert_allclose(scaffold.next_variate({"w": f32(1)}, {"w": f32(3)}, work)["w"], f32(2))


def test_scaffolds_server_by_hand() -> None:
    """x + 0.5 (mean - x) = 2 + 0.5 (6 - 2) = 4."""
    np.testing.assert_allclose(scaffold.server_step({"w": f32(2)}, {"w": f32(6)}, 0.5)["w"], f32(4))


def test_sites_that_did_not_take_part_hold_the_servers_variate_back() -> None:
    """Two of four sites of equal weight: c moves by half the mean change, not by all of it."""
    federation = QuadraticFederation("scaffold", equal_sites(), weighting="equal", fraction=0.5)
    federation.a_round()
    changes = [site.state["w"] for site in federation.sites if site.state]
    assert len(changes) == 2
    np.testing.assert_allclose(federation.strategy.variate["w"], sum(changes) / 4, rtol=1e-12)


def test_feddyns_steps_by_hand() -> None:
    """g = 1 - 0.5 (6 - 8) = 2. h = 4 - 0.5 * 0.25 (6 - 2) = 3.5 and 6 - 3.5 / 0.5 = -1, a quarter taking
    part.
    """
    work = LocalWork({"w": f32(8)}, {"w": f32(6)}, {"w": 1.0})
    np.testing.assert_allclose(feddyn.next_gradient({"w": f32(1)}, work, 0.5)["w"], f32(2))
    model, memory = feddyn.server_step({"w": f32(2)}, {"w": f32(6)}, {"w": f32(4)}, alpha=0.5, part=0.25)
    np.testing.assert_allclose(memory["w"], f32(3.5))
    np.testing.assert_allclose(model["w"], f32(-1))


def test_fednova_by_hand() -> None:
    """x = 0; sites of weight 1/2 went tau = 1 to y = 2 and tau = 3 to y = 9: tau_eff = 2, mean direction (2
    + 3) / 2.

    So the step is 5. The mean of y with weights p / tau is (2 / 2 + 9 / 6) / (1 / 2 + 1 / 6) = 3.75.
    """
    step = fednova.normalised_step({"w": f32(0)}, {"w": f32(3.75)}, reciprocal=2 / 3, progress=2.0)
    np.testing.assert_allclose(step["w"], f32(5), rtol=1e-6)
    first = QuadraticSite(np.ones(1), np.full(1, 1.0), steps=1, rate=1.0)
    second = QuadraticSite(np.ones(1), np.full(1, 1.0), steps=3, rate=1.0)
    first.hostile, second.hostile = (lambda _, end: end * 0 + 2), (lambda _, end: end * 0 + 9)
    np.testing.assert_allclose(QuadraticFederation("fednova", [first, second]).run(1).w, [5], rtol=1e-6)


@pytest.mark.parametrize(
    ("rates", "momentum", "nesterov", "expected"),
    [
        ([0.1, 0.2, 0.3], 0.0, False, 0.6),
        ([1.0, 1.0, 1.0], 0.5, False, 1 + 1.5 + 1.75),
        ([1.0, 1.0, 1.0], 0.5, True, 3 + 0.5 * (1 + 1.5 + 1.75)),
        ([], 0.9, True, 0.0),
    ],
)
def test_accumulated_rates_by_hand(
    rates: list[float], momentum: float, nesterov: bool, expected: float
) -> None:
    assert fednova.accumulated_rate(rates, momentum, nesterov) == pytest.approx(expected)


def test_fednova_undoes_the_influence_of_long_training() -> None:
    """Same curvature everywhere, 2 to 11 small steps: only the numbers of steps tell sites apart."""
    sites = [QuadraticSite(np.ones(3), site.b, site.steps, rate=0.01) for site in unlike_sites()]
    fedavg, nova = (QuadraticFederation(name, sites).run(400).error() for name in ("fedavg", "fednova"))
    assert fedavg > 0.25
    assert nova < 0.1 * fedavg


def same_course(
    first: str, second: str, sites: list[QuadraticSite], tolerance: float, **options: object
) -> None:
    runs = [QuadraticFederation(name, sites, **options) for name in (first, second)]  # type: ignore[arg-type]
    for _ in range(5):
        for run in runs:
            run.a_round()
        np.testing.assert_allclose(runs[0].w, runs[1].w, rtol=tolerance, atol=1e-12)


def test_equal_steps_make_fednova_fedavg() -> None:
    same_course("fednova", "fedavg", equal_sites(), 1e-9)


def test_equal_sites_make_scaffold_fedavg() -> None:
    same = [QuadraticSite(np.array([1.0, 0.3]), np.array([2.0, -1.0])) for _ in range(3)]
    same_course("scaffold", "fedavg", same, 1e-9)


def test_scaffolds_first_round_is_fedavgs() -> None:
    runs = [QuadraticFederation(name, unlike_sites()).run(1).w for name in ("scaffold", "fedavg")]
    np.testing.assert_allclose(*runs, rtol=1e-12)


@pytest.mark.parametrize("name", ["scaffold", "fednova", "cyclic", "fedper", "fedbn", "silobn"])
def test_one_site_alone_makes_them_fedavg(name: str) -> None:
    same_course(name, "fedavg", unlike_sites(count=1), 1e-9)


def test_one_site_alone_makes_feddyn_its_local_optimum() -> None:
    federation = QuadraticFederation("feddyn", unlike_sites(count=1), {"alpha": 0.5}).run(400)
    np.testing.assert_allclose(federation.w, federation.sites[0].b, atol=1e-6)


def test_q_0_weighs_sites_alike_and_a_larger_q_leans_to_the_worse_off() -> None:
    """From w = 0, losses 8 and 2, sites end at 1 and -1; L = 1 and q = 1: Algorithm 2 of the paper.

    Delta = 8 (0 - 1) and 2 (0 + 1); h = 1 * 1 + 8 and 1 * 1 + 2; w = 0 - (-8 + 2) / (9 + 3) = 0.5.
    """
    worse = QuadraticSite(np.ones(1), np.full(1, 4.0), hostile=lambda _, end: end * 0 + 1)
    better = QuadraticSite(np.ones(1), np.full(1, -2.0), hostile=lambda _, end: end * 0 - 1)
    rate = {"client_learning_rate": 1.0}
    fair = QuadraticFederation("qfedavg", [worse, better], {**rate, "q": 1.0}).run(1)
    np.testing.assert_allclose(fair.w, [0.5], rtol=1e-6)
    alike = QuadraticFederation("qfedavg", unlike_sites(), {**rate, "q": 0.0}).run(2)
    plain = QuadraticFederation("fedavg", unlike_sites(), weighting="equal").run(2)
    np.testing.assert_allclose(alike.w, plain.w, rtol=1e-7)


def test_cyclic_transfer_goes_from_site_to_site() -> None:
    """Each site halves its distance to its own optimum: 0 -> 4 (of 8) -> 2 (of 0) -> 6 (of 10)."""
    sites = [QuadraticSite(np.ones(1), np.full(1, b), steps=1, rate=0.5) for b in (8.0, 0.0, 10.0)]
    federation = QuadraticFederation("cyclic", sites)
    result = federation.a_round()
    np.testing.assert_array_equal(federation.w, [6.0])
    assert list(result.metrics) == ["site-00", "site-01", "site-02"]
    single = QuadraticFederation("fedavg", sites)
    assert result.bytes_down == single.a_round().bytes_down, "a cycle costs what a round of FedAvg costs"


def test_a_site_that_fails_in_a_cycle_is_passed_over() -> None:
    sites = [QuadraticSite(np.ones(1), np.full(1, b), steps=1, rate=0.5) for b in (8.0, 0.0, 10.0)]
    sites[1].hostile = lambda _, end: end * np.nan
    federation = QuadraticFederation("cyclic", sites)
    result = federation.a_round()
    np.testing.assert_array_equal(federation.w, [7.0])
    assert "site site-01: array w has 1 of 1 values that are not finite" in result.refused["site-01"]


PARAMETERS: dict[str, dict[str, float]] = {
    "fedprox": {"proximal_mu": 0.1},
    "qfedavg": {"client_learning_rate": 0.1},
    "fedavgm": {"server_momentum": 0.9},
    "feddyn": {"alpha": 0.5},
    # Its noise is nobody's to repeat.
    "dpfedavg": {"noise_multiplier": 0.0, "clipping_norm": 1e9, "sites": 7},
}


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_server_that_restarts_goes_on_bit_for_bit(name: str) -> None:
    """Six rounds, and six rounds with a new strategy object after every one."""
    options = PARAMETERS.get(name, {})
    steady, restarted = (QuadraticFederation(name, unlike_sites(7), options) for _ in range(2))
    for _ in range(6):
        steady.a_round()
        restarted.a_round()
        restarted.restart_server()
    assert steady.w.tobytes() == restarted.w.tobytes()
    if memory_of(name):
        forgetful = QuadraticFederation(name, unlike_sites(7), options)
        for _ in range(6):
            forgetful.a_round()
            forgetful.strategy = build(name, **options)
        assert forgetful.w.tobytes() != steady.w.tobytes(), "what is remembered matters"


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("scaffold", {"server_learning_rate": 0.0}, "server_learning_rate must be above zero"),
        ("feddyn", {"alpha": float("nan")}, "alpha must be above zero"),
        ("qfedavg", {"client_learning_rate": 0.1, "q": -1.0}, "q zero or above"),
        ("qfedavg", {}, "qfedavg needs client_learning_rate"),
        ("fedbn", {"held_out": "none"}, "held_out must be reestimated or mean, not none"),
        ("feddyn", {"alpha": "much"}, "alpha must be a number, not 'much'"),
        ("fedbn", {"held_out": 1}, "held_out must be a word, not 1"),
    ],
)
def test_parameters_out_of_range_are_refused(name: str, parameters: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(name, **parameters)
