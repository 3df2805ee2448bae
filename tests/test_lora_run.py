"""A federation of adapters on a frozen transformer: what travels, what is kept, and that it learns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import (
    AppGrid,
    local,
    new_run,
    run_in_memory,
    same,
    state,
    weights,
)
from on_frozen_trunk import (
    a_cell_is_the_run_and_scores_the_whole_model,
    a_site_file_names_the_trunk,
    another_trunk_is_refused_by_name,
    it_is_the_same_in_any_order_and_resumed,
    the_loss_falls,
)

from fedderm.model.cascade import Cascade
from fedderm.model.frozen import frozen_trunk, initial_model, is_trunk
from fedderm.model.lora import first_adapters, merged
from fedderm.model.state import load_arrays
from fedderm.predictor import Predictor
from fedderm.runs import RunFolder
from fedderm.serving import first_model
from fedderm.worker_models import worker_model

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
    a_cell_is_the_run_and_scores_the_whole_model(root, run, LORA)


def test_the_sites_loss_falls(run: tuple[RunFolder, AppGrid]) -> None:
    the_loss_falls(run)


@pytest.mark.parametrize("exchange", ["float32", "float16"])
def test_in_any_order_or_stopped_and_resumed_the_run_is_the_same_bit_for_bit(
    root: Path, exchange: str
) -> None:
    it_is_the_same_in_any_order_and_resumed(root, exchange, LORA)


def test_a_site_whose_trunk_differs_refuses_by_name(root: Path) -> None:
    another_trunk_is_refused_by_name(root, "test_vit", LORA)


def test_a_deployed_site_puts_adapters_on_its_own_file_of_weights(root: Path, tmp_path: Path) -> None:
    a_site_file_names_the_trunk(
        root, tmp_path, LORA, lambda whole, run: first_adapters(whole, run.model, run.training, 3)
    )


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
