"""Numbers and sums of a site that lies or is broken: refused by name, and the run goes on or stops in a
sentence.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import SITES, new_run, run_in_memory, state
from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from strategies.arrays import to_record

SGD = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.parametrize(
    ("name", "key", "value", "sentence"),
    [
        ("fedavg", "triage-loss", float("nan"), "triage-loss is nan; it must be one finite number"),
        ("fedavg", "extra", float("inf"), "extra is inf"),
        ("fednova", "progress", 1e-30, "progress is 1e-30; it must be between"),
        ("fednova", "progress", -1.0, "progress is -1; it must be between"),
        ("qfedavg", "initial-loss", 1e300, r"initial-loss is 1e\+300; it must be between"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_name(
    root: Path, name: str, key: str, value: float, sentence: str
) -> None:
    def lie(position: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train" and position == 1:
            reply.content["metrics"][key] = value
        return reply

    parameters = {"client_learning_rate": 0.1} if name == "qfedavg" else {}
    strategy = {"name": name, "parameters": parameters, "quorum": 0.5}
    folder = new_run(root, SITES, rounds=1, strategy=strategy, training=SGD)
    run_in_memory(folder, change=lie)
    assert re.search(f"site east: {sentence}", state(folder)["history"][0]["refused"]["east"])


@pytest.mark.parametrize("value", ["much", "[1]", "NaN", "-3", "true"])
@pytest.mark.parametrize("key", ["num_examples", "effective"])
def test_a_card_with_a_number_that_is_none_is_refused_by_name(root: Path, key: str, value: str) -> None:
    def lie(position: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "query" and position == 1:
            card = str(reply.content["card"]["json"])
            told = value if value != "much" else '"much"'
            changed = f'{{"{key}": {told}, ' + card[1:].replace(f'"{key}"', '"was"', 1)
            reply.content["card"] = ConfigRecord({**reply.content["card"], "json": changed})
        return reply

    folder = new_run(root, SITES, rounds=1, strategy={"weighting": "effective"})
    with pytest.raises(ValueError, match=r"node 2: .*its (effective )?number of (training )?images is"):
        run_in_memory(folder, change=lie)


def test_a_site_that_the_config_does_not_list_keeps_no_state_for_it(root: Path) -> None:
    def rename(position: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "query" and position == 1:
            card = str(reply.content["card"]["json"]).replace('"east"', '"clinic"')
            reply.content["card"] = ConfigRecord({**reply.content["card"], "json": card})
        return reply

    folder = new_run(root, SITES, rounds=1, strategy={"name": "scaffold"}, training=SGD)
    with pytest.raises(ValueError, match="clinic is no site of this experiment, and strategy scaffold"):
        run_in_memory(folder, change=rename)


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("all.gram", lambda one: one * 1e6, "its sums are of .* images but it registered 18"),
        ("all.gram", lambda one: one[:1, :1], r"all has shapes \[1, 1\]"),
        ("all.gram", lambda one: -one, "all.gram is no second moment"),
        (
            "all.gram",
            None,
            "expected all.gram, all.targets, malignant.gram, malignant.targets; found all.targets",
        ),
    ],
)
def test_moments_that_cannot_be_are_refused_by_name(
    root: Path, part: str, change: Any, sentence: str
) -> None:
    def lie(position: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train.head" and position == 1:
            arrays = {name: array.numpy() for name, array in reply.content["moments"].items()}
            if change is None:
                del arrays[part]
            else:
                arrays[part] = change(arrays[part])
            record = {name: Array(np.ascontiguousarray(one)) for name, one in arrays.items()}
            reply.content["moments"] = ArrayRecord(record)
        return reply

    folder = new_run(root, SITES, rounds=1, strategy={"name": "fed3r"}, training={"trunk": "frozen"})
    with pytest.raises(ValueError, match=f"site east: its head start cannot be used: .*{sentence}"):
        run_in_memory(folder, change=lie)


def test_a_first_loss_is_not_told_where_it_would_tell_a_small_class(root: Path) -> None:
    sites = ({**SITES[0], "min_cell": 50}, *SITES[1:])
    strategy = {"name": "qfedavg", "parameters": {"client_learning_rate": 0.1}}
    folder = new_run(root, sites, rounds=1, strategy=strategy)
    with pytest.raises(
        ValueError, match=r"site west: strategy.name: qfedavg, .* would tell a class of fewer than 50"
    ):
        run_in_memory(folder)


@pytest.mark.parametrize("number", [0, 3, 10**9, "x"])
def test_a_site_refuses_a_round_that_the_experiment_has_not(root: Path, number: Any) -> None:
    from federations import AppGrid

    from fedderm import messages
    from fedderm.serving import first_model

    folder = new_run(root, SITES, rounds=2)
    config = messages.config_record(folder.experiment, salt="", server_round=number)
    arrays = to_record(first_model(folder.experiment).arrays)
    grid = AppGrid(len(SITES))
    grid.push_messages([Message(messages.request(config, arrays), 100, "train")])
    (reply,) = grid.pull_messages(["message-0"])
    assert "asked for round" in reply.error.reason


def test_backbones_that_hold_the_same_weights_do_not_share_features() -> None:
    from fedderm.model.frozen import frozen_trunk, initial_model
    from fedderm.settings import ModelSettings

    def trunk(backbone: str) -> Any:
        settings = ModelSettings(backbone=backbone, pretrained="none", image_size=64)
        return frozen_trunk(initial_model(settings, 3))

    one, other = trunk("efficientnet_b0"), trunk("tf_efficientnet_b0")
    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)
    assert one.digest != other.digest


def test_a_held_out_site_with_statistics_of_its_own_is_not_predicted_for(root: Path) -> None:
    from fedderm.predictor import Predictor

    folder = new_run(root, SITES, rounds=1, strategy={"name": "fedbn"}, training={"norm_statistics": "local"})
    run_in_memory(folder)
    with pytest.raises(
        ValueError, match="--site away: was judged with BatchNorm statistics of its own images"
    ):
        Predictor.open(folder.path, "away")
    assert Predictor.open(folder.path, "west").point.threshold is not None


def test_all_bytes_are_counted_training_included(root: Path) -> None:
    folder = new_run(root, SITES, rounds=2, strategy={"name": "scaffold"}, training=SGD)
    run_in_memory(folder)
    found = state(folder)
    up = sum(entry["bytes_up"] for entry in found["history"])
    assert found["traffic"]["up"] > up > 2 * 2 * 2 * 1_400_000, (
        "two sites, two rounds, a model and a variate each"
    )
    assert found["traffic"]["down"] > sum(entry["bytes_down"] for entry in found["history"])
