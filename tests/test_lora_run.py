"""A federation of adapters on a frozen transformer: what travels, what is kept, and that it learns."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from federations import (
    AppGrid,
    Notes,
    local,
    new_run,
    raw_config,
    run_in_memory,
    same,
    simulated,
    state,
    weights,
)
from flwr.app import Context, Message, RecordDict

from fedderm import config, messages, site_tasks
from fedderm.comparison.cells import run_cell
from fedderm.comparison.job import Job
from fedderm.comparison.scores import FILE, read_scores
from fedderm.evaluation.scores import Scores
from fedderm.federation.training import read_counts
from fedderm.model.cascade import Cascade
from fedderm.model.frozen import frozen_trunk, initial_model, is_trunk
from fedderm.model.lora import first_adapters, merged
from fedderm.model.state import load_arrays, to_arrays
from fedderm.predictor import Predictor
from fedderm.runs import RunFolder
from fedderm.serving import first_model, start_of
from fedderm.weights import save_arrays
from fedderm.worker_models import worker_model
from strategies.errors import Interrupted

VIT = {"model": {"backbone": "test_vit"}}
TRAINING = {"trunk": "lora", "batch_size": 8, "learning_rate": 0.01}
LORA: dict[str, Any] = {**VIT, "training": TRAINING}
EAST, AWAY = 1, 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def run(root: Path) -> tuple[RunFolder, AppGrid]:
    folder = new_run(root, **{**LORA, "rounds": 3})
    return folder, run_in_memory(folder)


def test_only_adapters_and_heads_travel(run: tuple[RunFolder, AppGrid]) -> None:
    folder, grid = run
    kept = set(folder.latest_arrays() or {})
    assert {name.partition(".")[0] for name in kept} == {"triage", "differentiation", "adapters"}
    carried = [set(record) for _, message in grid.messages if (record := message.content.get("arrays"))]
    assert len(carried) == 6 + 9 + 2 + 3, "3 rounds x (2 train + 3 evaluate), standards, recalibrations"
    assert all(names == kept for names in carried)
    # 18,692 floats from each of two sites; the whole network has 300,356.
    up = state(folder)["history"][0]["bytes_up"]
    assert 2 * 4 * 18_692 < up < 2 * (4 * 18_692 + 8_000)


def test_the_runs_model_is_whole_and_merged(run: tuple[RunFolder, AppGrid]) -> None:
    """What a person opens knows nothing of adapters; only layers with one, and the heads, have changed."""
    folder, _ = run
    start, final = first_model(folder.experiment).arrays, weights(folder.path)
    assert set(start) == set(final)
    changed = {name for name in start if not np.array_equal(start[name], final[name])}
    assert {name for name in changed if is_trunk(name)} == {
        f"trunks.0.blocks.{block}.attn.{layer}.weight" for block in range(6) for layer in ("qkv", "proj")
    }
    trunk = frozen_trunk(initial_model(folder.experiment.model, folder.experiment.seed))
    expected = merged(trunk.arrays, folder.latest_arrays() or {}, folder.experiment.training)
    assert same({name: final[name] for name in expected}, expected)


def test_scores_through_adapters_are_the_predictors(run: tuple[RunFolder, AppGrid]) -> None:
    folder, _ = run
    experiment, site = folder.experiment, local(folder, AWAY)
    tuned = worker_model(experiment, folder.latest_arrays() or {}, state(folder)["trunk"])
    through = site.score(tuned, "test", 1, "float32").scores.triage
    plain = site.score(Predictor.open(folder.path).model, "test", 1, "float32").scores
    np.testing.assert_allclose(through, plain.triage, rtol=0, atol=1e-5)
    told = json.loads((folder.path / "evaluation" / "sites.json").read_text())["away"]
    positive, negative = plain.triage[plain.positive], plain.triage[~plain.positive]
    auc = (positive[:, None] > negative[None]).mean()
    assert told["splits"]["test"]["images"] == len(plain.triage)
    assert told["before"]["image"]["metrics"]["auc"]["value"] == pytest.approx(auc, abs=1e-6)


def test_a_comparisons_cell_scores_the_merged_model(root: Path, run: tuple[RunFolder, AppGrid]) -> None:
    folder = new_run(root, **{**LORA, "rounds": 3})
    told = list[Mapping[str, Any]]()
    run_cell(Job(str(folder.path), None, "0123456789abcdef", {}), told.append)
    assert [one["number"] for one in told] == [1, 2, 3]
    assert same(weights(folder.path), weights(run[0].path))
    found = read_scores(folder.path / FILE)["away", "global"]
    model = Predictor.open(folder.path).model
    site = local(folder, AWAY)
    expected = Scores.join(*(site.score(model, split, 1, "auto").scores for split in ("calibration", "test")))
    np.testing.assert_allclose(found.triage, expected.per_lesion().triage, rtol=0, atol=1e-6)


def test_the_sites_loss_falls(run: tuple[RunFolder, AppGrid]) -> None:
    losses = [
        np.mean([site["loss"] for site in entry["sites"].values()]) for entry in state(run[0])["history"]
    ]
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.parametrize("exchange", ["float32", "float16"])
def test_in_any_order_or_stopped_and_resumed_the_run_is_the_same_bit_for_bit(
    root: Path, exchange: str
) -> None:
    folders = [new_run(root, **LORA, strategy={"exchange": exchange}) for _ in range(3)]
    run_in_memory(folders[0])
    run_in_memory(folders[1], order=lambda position: -position)
    notes = Notes()
    with pytest.raises(Interrupted):
        run_in_memory(folders[2], should_stop=lambda: notes.stages[-1] == "round 2/2: train", notes=notes)
    run_in_memory(RunFolder.open(folders[2].path))
    for other in folders[1:]:
        assert same(weights(folders[0].path), weights(other.path))


def test_a_site_whose_trunk_differs_refuses_by_name(root: Path) -> None:
    """As under a frozen trunk: what would be trained here belongs to another network."""
    folder = new_run(root, **LORA)
    _, initial = start_of(folder)
    words = r"the frozen trunk test_vit .* other weights here, \w{16}, than at the server, feedfeed"
    with pytest.raises(ValueError, match=words):
        worker_model(folder.experiment, initial.arrays, "feedfeedfeedfeed")


def test_a_deployed_site_puts_adapters_on_its_own_file_of_weights(root: Path, tmp_path: Path) -> None:
    """The server's path means nothing here, and must not be read."""
    model = new_run(root, **LORA).experiment.model
    whole = initial_model(model, 3)
    save_arrays(tmp_path / "here.safetensors", to_arrays(whole.trunks[0]))
    site = {**simulated("clinic", 20, "held-out"), "splits": {"train": 0, "calibration": 0, "test": 1}}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    there = {**VIT["model"], "pretrained": "/at/the/server.safetensors"}
    experiment = config.parse(raw_config(root, **{**LORA, "model": there}))
    digest = frozen_trunk(whole).digest
    asked = messages.config_record(experiment, splits="test", views=1, trunk=digest, server_round=1)
    tuned = first_adapters(whole, experiment.model, experiment.training, 3)
    content = messages.request(asked, messages.to_record(to_arrays(tuned)))
    message = Message(content, 1, messages.EVALUATE)
    message.metadata.__dict__["_message_id"] = "1"

    node: dict[str, Any] = {"site": str(tmp_path / "site.yaml")}
    with pytest.raises(ValueError, match=r"site clinic: .* name your copy of it"):
        site_tasks.evaluate(message, Context(1, 1, node, RecordDict(), {}))
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({**site, "trunk": "here.safetensors"}))
    reply = site_tasks.evaluate(message, Context(1, 1, node, RecordDict(), {}))
    assert read_counts(reply)["test"].cells.sum() > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": {"name": "fedper"}},
        {"strategy": {"name": "scaffold"}, "training": {"optimizer": "sgd"}},
        {"training": {"head_start": "ridge"}},
        {"baseline": "pooled"},
    ],
    ids=["fedper", "scaffold", "head start", "pooled"],
)
def test_it_goes_with(root: Path, changes: dict[str, Any]) -> None:
    training = {**TRAINING, **changes.get("training", {})}
    folder = new_run(root, **{**VIT, **changes, "training": training, "rounds": 1})
    run_in_memory(folder)
    assert not state(folder)["history"][0]["refused"]
    model = Cascade(folder.experiment.model, pretrained=False)
    load_arrays(model, weights(folder.path))
