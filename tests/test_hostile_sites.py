"""A minority of hostile sites: what each robust method withstands, and what breaks FedAvg."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quadratic_sites import QuadraticFederation, QuadraticSite
from scipy.special import expit

Floats = NDArray[np.float64]
Attack = Callable[[Floats, Floats], Floats]

HOSTILE = 2
ROBUST: dict[str, dict[str, Any]] = {
    "fedmedian": {},
    "fedtrimmedavg": {"beta": 0.25},
    "krum": {"num_malicious_nodes": HOSTILE},
    "multikrum": {"num_malicious_nodes": HOSTILE, "num_nodes_to_select": 5},
    "bulyan": {"num_malicious_nodes": HOSTILE},
}
ATTACKS: dict[str, Attack] = {
    "sign flipped": lambda start, end: start - 4 * (end - start),
    "scaled by 100": lambda start, end: start + 100 * (end - start),
    "scaled by -100": lambda start, end: start - 100 * (end - start),
}


def sites(attack: Attack | None) -> list[QuadraticSite]:
    """Return eleven sites around one optimum, the first two hostile: bulyan needs 4 * 2 + 3."""
    rng = np.random.default_rng(1)
    found = [QuadraticSite(np.ones(4), np.full(4, 3.0) + rng.normal(0, 0.2, 4)) for _ in range(11)]
    for one in found[:HOSTILE]:
        one.hostile = attack
    return found


def distance(name: str, attack: Attack | None, rounds: int = 12) -> float:
    """Return how far the model ends from what the honest sites agree on, 3 in every coordinate."""
    federation = QuadraticFederation(name, sites(attack), ROBUST.get(name, {})).run(rounds)
    return float(np.abs(federation.w - 3.0).max())


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_fedavg_breaks(attack: str) -> None:
    assert distance("fedavg", None) < 0.2
    assert distance("fedavg", ATTACKS[attack]) > 2


@pytest.mark.parametrize("attack", sorted(ATTACKS))
@pytest.mark.parametrize("name", sorted(ROBUST))
def test_robust_methods_hold(name: str, attack: str) -> None:
    assert distance(name, None) < 0.5
    assert distance(name, ATTACKS[attack]) < 0.5


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "feddyn", "fednova", "fedadam", *sorted(ROBUST)])
def test_values_that_are_not_numbers_are_refused_before_any_method_sees_them(name: str) -> None:
    def not_numbers(_: Floats, end: Floats) -> Floats:
        return np.where(np.arange(len(end)) == 1, np.nan, end)

    honest = sites(None)[HOSTILE:]
    while len(honest) < 11:
        honest.append(QuadraticSite(honest[0].a, honest[0].b))
    with_liars = [*honest, *(QuadraticSite(np.ones(4), np.zeros(4), hostile=not_numbers) for _ in range(2))]
    options = ROBUST.get(name, {})
    alone, beside = (QuadraticFederation(name, which, options, "equal") for which in (honest, with_liars))
    result = beside.a_round()
    alone.a_round()
    assert sorted(result.refused) == ["site-11", "site-12"]
    assert all("not finite" in sentence for sentence in result.refused.values())
    if name == "feddyn":  # sites that did not take part hold its correction back: 11 of 13 count
        assert np.isfinite(beside.w).all()
    else:
        np.testing.assert_array_equal(beside.w, alone.w)


class LogisticSite(QuadraticSite):
    """A site with labelled points in place of a curvature: logistic regression by gradient steps."""

    def __init__(self, images: int, flipped: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(images, 3))
        labels = (points @ [2.0, -1.0, 0.5] + rng.logistic(size=images) > 0).astype(float)
        self.points, self.labels = points, 1 - labels if flipped else labels
        super().__init__(np.ones(3), np.zeros(3), steps=20, rate=0.3, images=images)

    def gradient(self, w: Floats) -> Floats:
        return self.points.T @ (expit(self.points @ w) - self.labels) / len(self.labels)


@pytest.mark.parametrize("name", ["fedavg", *sorted(ROBUST)])
def test_flipped_labels(name: str) -> None:
    """Two of eleven sites see every label flipped, and have more images than all others together.

    FedAvg goes where the images are and calls malignant what is benign; robust methods go where the sites
    are. Accuracy on fresh points with true labels.
    """
    federation = QuadraticFederation(
        name,
        [LogisticSite(900 if number < HOSTILE else 100, number < HOSTILE, number) for number in range(11)],
        ROBUST.get(name, {}),
    ).run(15)
    fresh = LogisticSite(4000, flipped=False, seed=99)
    accuracy = float(((fresh.points @ federation.w > 0) == (fresh.labels > 0.5)).mean())
    if name == "fedavg":
        assert accuracy < 0.4
    else:
        assert accuracy > 0.75
