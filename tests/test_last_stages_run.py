"""A federation that fine-tunes a trunk's last stage: what travels, what is kept, and that the cells agree."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import (
    AppGrid,
    local,
    new_run,
    run_in_memory,
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
from fedderm.model.frozen import is_trunk
from fedderm.model.stages import LastStages
from fedderm.model.state import load_arrays
from fedderm.predictor import Predictor
from fedderm.runs import RunFolder
from fedderm.serving import first_model
from fedderm.worker_models import worker_model

TRAINING = {"trunk": "last_stages", "batch_size": 8, "learning_rate": 0.003}
LAST: dict[str, Any] = {"training": TRAINING}
EAST, AWAY = 1, 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def run(root: Path) -> tuple[RunFolder, AppGrid]:
    folder = new_run(root, **{**LAST, "rounds": 3})
    return folder, run_in_memory(folder)


def test_only_the_last_stage_and_heads_travel(run: tuple[RunFolder, AppGrid]) -> None:
    folder, grid = run
    kept = folder.latest_arrays() or {}
    assert {".".join(name.split(".")[:3]) for name in kept if is_trunk(name)} == {"trunks.0.layer4"}
    carried = [set(record) for _, message in grid.messages if (record := message.content.get("arrays"))]
    assert len(carried) == 6 + 9 + 2 + 3, "3 rounds x (2 train + 3 evaluate), standards, recalibrations"
    assert all(names == set(kept) for names in carried)
    floats = sum(array.size for array in kept.values())
    up = state(folder)["history"][0]["bytes_up"]
    assert 2 * 4 * floats < up < 2 * (4 * floats + 8_000)
    assert floats < 0.75 * sum(array.size for array in weights(folder.path).values())


def test_the_runs_model_is_whole_and_only_its_last_stage_has_changed(run: tuple[RunFolder, AppGrid]) -> None:
    folder, _ = run
    start, final = first_model(folder.experiment).arrays, weights(folder.path)
    assert set(start) == set(final)
    changed = {name for name in start if not np.array_equal(start[name], final[name])}
    assert changed <= set(folder.latest_arrays() or {})
    assert {name.split(".")[2] for name in changed if is_trunk(name)} == {"layer4"}
    assert not any("running" in name for name in changed)


def test_scores_at_a_site_are_the_predictors(run: tuple[RunFolder, AppGrid]) -> None:
    folder, _ = run
    tuned = worker_model(folder.experiment, folder.latest_arrays() or {}, state(folder)["trunk"])
    assert isinstance(tuned, LastStages)
    site = local(folder, AWAY)
    through = site.score(tuned, "test", 1, "float32").scores.triage
    plain = site.score(Predictor.open(folder.path).model, "test", 1, "float32").scores.triage
    np.testing.assert_allclose(through, plain, rtol=0, atol=1e-5)


def test_a_comparisons_cell_scores_the_whole_model(root: Path, run: tuple[RunFolder, AppGrid]) -> None:
    a_cell_is_the_run_and_scores_the_whole_model(root, run, LAST)


def test_the_sites_loss_falls(run: tuple[RunFolder, AppGrid]) -> None:
    the_loss_falls(run)


@pytest.mark.parametrize("exchange", ["float32", "float16"])
def test_in_any_order_or_stopped_and_resumed_the_run_is_the_same_bit_for_bit(
    root: Path, exchange: str
) -> None:
    it_is_the_same_in_any_order_and_resumed(root, exchange, LAST)


def test_a_site_whose_early_stages_differ_refuses_by_name(root: Path) -> None:
    another_trunk_is_refused_by_name(root, "test_resnet", LAST)


def test_a_deployed_site_has_the_early_stages_of_its_own_file(root: Path, tmp_path: Path) -> None:
    a_site_file_names_the_trunk(
        root, tmp_path, LAST, lambda whole, run: LastStages(whole, run.model, run.training)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": {"name": "fedper"}},
        {"strategy": {"name": "fedprox", "proximal_mu": 0.1}},
        {"strategy": {"name": "scaffold"}, "training": {"optimizer": "sgd"}},
        {"training": {"head_start": "ridge"}},
        {"baseline": "pooled"},
        {"model": {"backbone": "test_vit"}, "training": {"last_stages": 2}},
    ],
    ids=["fedper", "fedprox", "scaffold", "head start", "pooled", "transformer"],
)
def test_it_goes_with(root: Path, changes: dict[str, Any]) -> None:
    training = {**TRAINING, **changes.get("training", {})}
    folder = new_run(root, **{**changes, "training": training, "rounds": 1})
    run_in_memory(folder)
    assert not state(folder)["history"][0]["refused"]
    model = Cascade(folder.experiment.model, pretrained=False)
    load_arrays(model, weights(folder.path))
