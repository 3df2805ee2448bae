"""Fed3R: one exchange gives exactly the ridge regression on the pooled features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import SITES, AppGrid, largest_difference, new_run, run_in_memory, same, state, weights
from flwr.app import Message
from sklearn.linear_model import Ridge

from fedderm.combinations import check_choices
from fedderm.head_start import SLOPE
from fedderm.local_site import LocalSite
from fedderm.model.frozen import frozen_trunk, initial_model
from fedderm.node import open_site
from fedderm.runs import RunFolder

MANY = (*SITES, {"name": "north", "lesions": 24}, {"name": "south", "lesions": 33})
FED3R = {"strategy": {"name": "fed3r"}, "training": {"trunk": "frozen"}, "rounds": 1}
WEST, EAST, AWAY, NORTH, SOUTH = range(5)


@pytest.fixture(scope="module")
def run(root: Path) -> tuple[RunFolder, AppGrid]:
    folder = new_run(root, MANY, **FED3R)
    return folder, run_in_memory(folder)


def cached(folder: RunFolder, position: int) -> LocalSite:
    experiment = folder.experiment
    trunk = frozen_trunk(initial_model(experiment.model, experiment.seed)).digest
    return open_site(experiment, experiment.sites[position], "", frozenset(), trunk)


def pooled(folder: RunFolder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, classes and weights of all training sites' training images in one place."""
    sets = [cached(folder, one).train_set(folder.experiment.training) for one in (WEST, EAST, NORTH, SOUTH)]
    features = [one.batch(np.arange(len(one)))[:, 0, 0].astype(np.float64) for one in sets]
    return (
        np.concatenate(features),
        np.concatenate([one.classes for one in sets]),
        np.concatenate([one.weights for one in sets]),
    )


def ridge(features: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: float) -> Ridge:
    """Return scikit-learn's; its intercept is not penalised, the penalty is ours times the mean square."""
    level = float((weights[:, None] * features**2).sum()) / features.shape[1]
    found = Ridge(alpha=penalty * level, solver="cholesky")
    return found.fit(features, targets, sample_weight=weights)


def test_the_models_heads_are_scikit_learns_ridge_on_the_pooled_features(
    run: tuple[RunFolder, AppGrid],
) -> None:
    folder, _ = run
    features, classes, drawn = pooled(folder)
    model, penalty = weights(folder.path), folder.experiment.training.head_penalty
    benign = ridge(features, (classes == 0).astype(float), drawn, penalty)
    np.testing.assert_allclose(model["triage.weight"][0], -SLOPE * benign.coef_, rtol=0, atol=1e-6)
    np.testing.assert_allclose(model["triage.bias"], SLOPE * (0.5 - benign.intercept_), rtol=0, atol=1e-6)
    ill = classes > 0
    three = ridge(features[ill], np.eye(3)[classes[ill] - 1], drawn[ill], penalty)
    np.testing.assert_allclose(model["differentiation.weight"], SLOPE * three.coef_, rtol=0, atol=1e-6)
    np.testing.assert_allclose(model["differentiation.bias"], SLOPE * three.intercept_, rtol=0, atol=1e-6)


def test_its_one_round_is_one_exchange_without_training(run: tuple[RunFolder, AppGrid]) -> None:
    folder, grid = run
    asked = ["query", "train.head", "evaluate", "evaluate", "query.recalibrate"]
    assert grid.types_sent_to(WEST) == grid.types_sent_to(SOUTH) == asked
    assert grid.types_sent_to(AWAY) == ["query", "evaluate", "query.recalibrate"]
    (entry,) = state(folder)["history"]
    assert list(entry["sites"]) == ["west", "east", "north", "south"]
    for position, name in ((WEST, "west"), (SOUTH, "south")):
        images = len(cached(folder, position).rows("train"))
        assert entry["sites"][name] == {"num-examples": images, "steps": 0, "images": 0}
    width = len(weights(folder.path)["triage.weight"][0]) + 1
    # Four sites; of all and of malignant images each: a Gram matrix, and sums by class, in float64.
    numbers = 4 * (2 * width**2 + (4 + 3) * width)
    assert 8 * numbers < entry["bytes_up"] < 1.1 * 8 * numbers + 4 * 2000
    assert state(folder)["traffic"]["up"] > entry["bytes_up"]
    assert state(folder)["finished"]


def test_the_pooled_baseline_and_the_order_of_replies_change_nothing(
    root: Path, run: tuple[RunFolder, AppGrid]
) -> None:
    again = new_run(root, MANY, **FED3R)
    run_in_memory(again, order=lambda position: -position)
    assert same(weights(run[0].path), weights(again.path))
    one_place = new_run(root, MANY, **FED3R, baseline="pooled")
    run_in_memory(one_place)
    assert largest_difference(weights(run[0].path), weights(one_place.path)) < 1e-6


def test_a_site_that_does_not_answer_stops_it(root: Path) -> None:
    def broken(position: int, message: Message, reply: Message) -> Message:
        if position == EAST and message.metadata.message_type == "train.head":
            raise ValueError("the disk of east is full")
        return reply

    folder = new_run(root, MANY, **FED3R)
    with pytest.raises(ValueError, match=r"site east: .*the disk of east is full"):
        run_in_memory(folder, change=broken)
    assert state(folder)["round"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"trunk": "trained"}}, r"set training\.trunk: frozen"),
        ({"rounds": 3}, "set rounds: 1, not 3"),
        ({"training": {"trunk": "frozen", "head_start": "ridge"}}, "leave training.head_start out"),
        ({"strategy": {"name": "fed3r", "fraction": 0.5}}, "fraction and quorum at 1"),
        ({"strategy": {"name": "fed3r", "weighting": "equal"}}, "weighting: examples"),
        ({"strategy": {"name": "fed3r", "parameters": {"eta": 1}}}, "eta|has none"),
    ],
)
def test_what_does_not_go_with_it_is_refused_with_the_reason(root: Path, changes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_choices(new_run(root, MANY, **{**FED3R, **changes}).experiment)
