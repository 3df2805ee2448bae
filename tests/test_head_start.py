"""The head start: ridge regression from sums over sites."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from fedderm.head_start import (
    SLOPE,
    Moments,
    differentiation_head,
    four_class_heads,
    moments,
    total,
    triage_head,
)

SITES, FEATURES, PENALTY = (40, 25, 60), 12, 0.3


def draw() -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Return features, classes and weights of three unlike sites."""
    rng = np.random.default_rng(3)
    features = [rng.normal(site, 1 + site, (n, FEATURES)) for site, n in enumerate(SITES)]
    classes = [np.r_[np.arange(4), rng.integers(0, 4, n - 4)] for n in SITES]
    weights = [rng.uniform(0.2, 3.0, n) for n in SITES]
    return features, classes, weights


def summed() -> Moments:
    features, classes, weights = draw()
    return total([moments(f, np.eye(4)[c], w) for f, c, w in zip(features, classes, weights, strict=True)])


def test_sums_over_sites_give_scikit_learns_ridge_on_the_pooled_features() -> None:
    features, classes, weights = (np.concatenate(part) for part in draw())
    level = float((weights[:, None] * features**2).sum()) / FEATURES
    pooled = Ridge(alpha=PENALTY * level, solver="cholesky")
    pooled.fit(features, np.eye(4)[classes], sample_weight=weights)
    solved = summed().solve(PENALTY)
    np.testing.assert_allclose(solved[:-1].T, pooled.coef_, rtol=0, atol=1e-6)
    np.testing.assert_allclose(solved[-1], pooled.intercept_, rtol=0, atol=1e-6)


def test_the_triage_logit_is_half_way_where_benign_and_malignant_are_equally_likely() -> None:
    solved = summed().solve(PENALTY)[:, 0]
    head = triage_head(summed(), PENALTY)
    image = np.random.default_rng(5).normal(size=FEATURES)
    benign = image @ solved[:-1] + solved[-1]
    logit = head["triage.weight"][0] @ image + head["triage.bias"][0]
    assert logit == pytest.approx(SLOPE * (0.5 - benign), abs=1e-5)
    assert head["triage.weight"].shape == (1, FEATURES)
    assert head["triage.weight"].dtype == np.float32


def test_four_class_heads_give_the_same_order_of_classes_as_the_regression() -> None:
    solved = summed().solve(PENALTY)
    heads = four_class_heads(summed(), PENALTY)
    images = np.random.default_rng(6).normal(size=(50, FEATURES))
    scores = images @ solved[:-1] + solved[-1]
    benign = -(images @ heads["triage.weight"][0] + heads["triage.bias"][0])
    malignant = images @ heads["differentiation.weight"].T + heads["differentiation.bias"]
    np.testing.assert_array_equal(np.c_[benign, malignant].argmax(axis=1), scores.argmax(axis=1))


def test_differentiation_has_one_row_a_malignant_class() -> None:
    features, classes, weights = (np.concatenate(part) for part in draw())
    malignant = classes > 0
    one = moments(features[malignant], np.eye(3)[classes[malignant] - 1], weights[malignant])
    head = differentiation_head(one, PENALTY)
    assert head["differentiation.weight"].shape == (3, FEATURES)
    # The three probabilities sum to 1, so their coefficients cancel and their constants sum to 1.
    np.testing.assert_allclose(head["differentiation.weight"].sum(axis=0), 0, atol=1e-5)
    assert head["differentiation.bias"].sum() == pytest.approx(SLOPE, abs=1e-4)


def test_nothing_to_fit_is_said() -> None:
    with pytest.raises(ValueError, match="no features"):
        Moments(np.zeros((4, 4)), np.zeros((4, 4))).solve(PENALTY)
