"""A federation under a frozen trunk: what travels, what it costs, and that it is the same model."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from federations import (
    SITES,
    AppGrid,
    Notes,
    largest_difference,
    local,
    new_run,
    raw_config,
    run_in_memory,
    same,
    simulated,
    state,
    weights,
)
from flwr.app import Context, RecordDict

from fedderm import config, messages, site_tasks
from fedderm.inference import extract_features, score_images
from fedderm.model.cascade import Cascade
from fedderm.model.dropout import PackedDropout
from fedderm.model.frozen import frozen_trunk, initial_model
from fedderm.model.state import load_arrays, to_arrays
from fedderm.node import open_site
from fedderm.predictor import Predictor
from fedderm.runs import RunFolder
from fedderm.serving import first_model
from fedderm.weights import save_arrays
from fedderm.worker_models import worker_model
from strategies.errors import Interrupted

FROZEN = {"training": {"trunk": "frozen", "learning_rate": 0.01}}
HEADS = {"triage.weight", "triage.bias", "differentiation.weight", "differentiation.bias"}
WEST, EAST, AWAY = range(3)


@pytest.fixture(scope="module")
def frozen(root: Path) -> tuple[RunFolder, AppGrid]:
    folder = new_run(root, **FROZEN, evaluation={"views": 4})
    return folder, run_in_memory(folder)


def whole(folder: RunFolder) -> Cascade:
    model = Cascade(folder.experiment.model, pretrained=False)
    load_arrays(model, weights(folder.path))
    return model


def test_only_the_heads_travel_and_are_kept_between_rounds(frozen: tuple[RunFolder, AppGrid]) -> None:
    folder, grid = frozen
    carried = [set(record) for _, message in grid.messages if (record := message.content.get("arrays"))]
    assert len(carried) == 4 + 6 + 2 + 3, "2 rounds x (2 train + 3 evaluate), standards, recalibrations"
    assert all(names == HEADS for names in carried)
    assert set(folder.latest_arrays() or {}) == HEADS
    entry = state(folder)["history"][0]
    # The heads' four floats for each of 256 features are 4 KB; the whole network has 1.5 MB.
    assert entry["bytes_up"] < 2 * 8_000


def test_the_runs_model_is_whole_and_its_trunk_is_the_first_one(frozen: tuple[RunFolder, AppGrid]) -> None:
    folder, _ = frozen
    start, final = first_model(folder.experiment).arrays, weights(folder.path)
    assert set(start) == set(final)
    assert {name for name in start if not np.array_equal(start[name], final[name])} == HEADS


@pytest.mark.parametrize("views", [1, 2, 4])
def test_scores_from_the_cache_are_those_through_the_network(
    frozen: tuple[RunFolder, AppGrid], views: int
) -> None:
    folder, _ = frozen
    experiment = folder.experiment
    trunk = frozen_trunk(initial_model(experiment.model, experiment.seed)).digest
    heads = worker_model(experiment, {name: weights(folder.path)[name] for name in HEADS})
    cached = open_site(experiment, experiment.sites[AWAY], "", frozenset(), trunk)
    rows = cached.rows("test")
    seen = score_images(heads, cached.images, rows, views)
    through = score_images(whole(folder), cached.pixels, rows, views)
    assert cached.images.dtype == np.float32
    assert seen.differential is not None
    assert through.differential is not None
    np.testing.assert_allclose(seen.triage, through.triage, rtol=0, atol=1e-5)
    np.testing.assert_allclose(seen.differential, through.differential, rtol=0, atol=1e-5)
    np.testing.assert_allclose(seen.features, through.features, rtol=0, atol=1e-5)


def test_the_report_on_the_sites_is_the_predictors(frozen: tuple[RunFolder, AppGrid]) -> None:
    """What the sites said of the heads holds for the model that `fedderm predict` opens."""
    folder, _ = frozen
    predictor = Predictor.open(folder.path)
    site = local(folder, AWAY)
    scores = site.score(predictor.model, "test", predictor.views, "float32").scores
    told = json.loads((folder.path / "evaluation" / "sites.json").read_text())["away"]
    positive, negative = scores.triage[scores.positive], scores.triage[~scores.positive]
    auc = (positive[:, None] > negative[None]).mean()
    assert told["splits"]["test"]["images"] == len(scores.triage)
    assert told["before"]["image"]["metrics"]["auc"]["value"] == pytest.approx(auc, abs=1e-6)


def test_two_runs_and_one_that_was_stopped_and_resumed_are_equal_bit_for_bit(
    root: Path, frozen: tuple[RunFolder, AppGrid]
) -> None:
    again = new_run(root, **FROZEN, evaluation={"views": 4})
    run_in_memory(again, order=lambda position: -position)
    assert same(weights(frozen[0].path), weights(again.path))

    notes, stopped = Notes(), new_run(root, **FROZEN, evaluation={"views": 4})
    with pytest.raises(Interrupted):
        run_in_memory(stopped, should_stop=lambda: notes.stages[-1] == "round 2/2: train", notes=notes)
    assert state(stopped)["round"] == 1
    run_in_memory(RunFolder.open(stopped.path))
    assert same(weights(frozen[0].path), weights(stopped.path))


def test_a_run_whose_trunk_has_changed_is_not_resumed(root: Path) -> None:
    notes, folder = Notes(), new_run(root, **FROZEN)
    with pytest.raises(Interrupted):
        run_in_memory(folder, should_stop=lambda: notes.stages[-1] == "round 2/2: train", notes=notes)
    folder.write_state({**state(folder), "trunk": "0123456789abcdef"})
    with pytest.raises(ValueError, match="the frozen trunk is not the one that this run began with"):
        run_in_memory(RunFolder.open(folder.path))


def test_a_site_whose_trunk_differs_refuses_and_says_so(root: Path) -> None:
    folder = new_run(root, **FROZEN)
    experiment = folder.experiment
    site = open_site(experiment, experiment.sites[EAST], "", frozenset(), "feedfeedfeedfeed")
    words = r"site east: the frozen trunk test_resnet .* other weights here, \w{16}, than at the server, feed"
    with pytest.raises(ValueError, match=words):
        site.train_set(experiment.training)
    with pytest.raises(ValueError, match=words):
        site.score(worker_model(experiment, initial_heads(folder)), "test", 1, "auto")
    assert not list((experiment.work_dir / "features").glob("*feedfeed*[!.lock]"))


def initial_heads(folder: RunFolder) -> dict[str, np.ndarray]:
    return {name: array for name, array in first_model(folder.experiment).arrays.items() if name in HEADS}


def test_a_message_that_does_not_tell_the_trunk_is_refused(root: Path) -> None:
    experiment = new_run(root, **FROZEN).experiment
    with pytest.raises(ValueError, match="does not tell which trunk is frozen"):
        messages.frozen_trunk(messages.Instruction(experiment, {}))


def test_the_pooled_baseline_and_one_site_alone_are_the_same_under_a_frozen_trunk(root: Path) -> None:
    sites = (SITES[EAST], SITES[AWAY])
    runs = [new_run(root, sites, **FROZEN, baseline=baseline) for baseline in ("none", "pooled")]
    for folder in runs:
        run_in_memory(folder)
    assert same(*(weights(folder.path) for folder in runs))
    both = new_run(root, **FROZEN, baseline="pooled")
    run_in_memory(both)
    assert largest_difference(weights(both.path), weights(runs[0].path)) > 0


def test_each_stage_of_a_separate_trunk_sees_its_own_features(root: Path) -> None:
    folder = new_run(root, **FROZEN, model={"trunk": "separate"}, rounds=1)
    run_in_memory(folder)
    model, experiment = whole(folder), folder.experiment
    trunk = frozen_trunk(initial_model(experiment.model, experiment.seed)).digest
    site = open_site(experiment, experiment.sites[WEST], "", frozenset(), trunk)
    rows = site.rows("train")[:5]
    assert site.images.shape[1:3] == (4, 2)
    heads = worker_model(experiment, {name: weights(folder.path)[name] for name in HEADS})
    cached, through = (score_images(m, x, rows) for m, x in ((heads, site.images), (model, site.pixels)))
    np.testing.assert_allclose(cached.triage, through.triage, rtol=0, atol=1e-5)
    assert cached.differential is not None
    np.testing.assert_allclose(cached.differential, through.differential, rtol=0, atol=1e-5)
    assert not np.allclose(site.images[:, 0, 0], site.images[:, 0, 1])


def test_the_head_start_is_the_same_from_the_cache_and_through_the_network(root: Path) -> None:
    found = []
    for trunk in ("frozen", "trained"):
        training = {"trunk": trunk, "head_start": "ridge", "learning_rate": 1e-9}
        folder = new_run(root, training=training, rounds=1)
        run_in_memory(folder)
        found.append({name: weights(folder.path)[name] for name in HEADS})
    assert np.abs(found[0]["triage.weight"]).max() > 0.01
    assert largest_difference(*found) < 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"trunk": "frozen", "norm_statistics": "local"}}, "remove one of the two"),
        ({**FROZEN, "model": {"pretrained": "hub", "backbone": "resnet18"}}, "save its weights to a file"),
    ],
)
def test_what_does_not_go_with_a_frozen_trunk_is_refused(root: Path, changes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        new_run(root, **changes)


def test_a_deployed_site_names_its_own_file_of_weights(root: Path, tmp_path: Path) -> None:
    """The server's path means nothing here, and must not be read."""
    experiment = new_run(root, **FROZEN).experiment
    saved = initial_model(experiment.model, 3)
    save_arrays(tmp_path / "here.safetensors", to_arrays(saved.trunks[0]))
    site = {
        **simulated("clinic", 20),
        "role": "held-out",
        "splits": {"train": 0, "calibration": 0, "test": 1},
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    raw = raw_config(root, **FROZEN, model={"pretrained": "/at/the/server.safetensors"})
    instruction = messages.Instruction(config.parse(raw), {"trunk": frozen_trunk(saved).digest})
    node: dict[str, Any] = {"site": str(tmp_path / "site.yaml")}
    with pytest.raises(ValueError, match=r"site clinic: .* name your copy of it"):
        site_tasks._site(instruction, Context(1, 1, node, RecordDict(), {}))
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({**site, "trunk": "here.safetensors"}))
    found = site_tasks._site(instruction, Context(1, 1, node, RecordDict(), {}))
    expected, _ = extract_features(saved, np.array(found.pixels[:3]))
    np.testing.assert_allclose(found.images[:3, 0, 0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.75])
def test_packed_dropout_drops_p_and_keeps_the_mean(p: float) -> None:
    """Of n = 160,000 ones: shares within 5 SD of p, a multiple of 1/256, and a mean of 1 likewise."""
    dropout, ones = PackedDropout(p), torch.ones(125, 1280)
    torch.manual_seed(3)
    dropped = dropout(ones)
    rounded = round(256 * p) / 256
    limit = 5 * math.sqrt(rounded * (1 - rounded) / ones.numel())
    assert float((dropped == 0).float().mean()) == pytest.approx(rounded, abs=limit)
    assert float(dropped.mean()) == pytest.approx(1, abs=limit / (1 - rounded) + 1e-6)
    assert set(dropped.unique().tolist()) <= {0.0, float(torch.tensor(1 / (1 - rounded)))}
    assert torch.equal(dropout.eval()(ones), ones)


def test_a_mask_is_another_for_each_image_and_each_step() -> None:
    dropout, ones = PackedDropout(0.5), torch.ones(3, 1, 64)
    torch.manual_seed(3)
    first, second = dropout(ones), dropout(ones)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    torch.manual_seed(3)
    assert torch.equal(dropout(ones), first)
