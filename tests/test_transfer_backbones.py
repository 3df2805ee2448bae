"""The five backbones of the transfer-learning paper (arXiv 2406.12954): they build, learn at every depth and
score; and the paper's config shows each the images that its weights were trained on.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from fedderm import config
from fedderm.comparison.plan import cells_of
from fedderm.inference import predict_logits
from fedderm.model.cascade import Cascade
from fedderm.model.frozen import initial_model, is_trunk
from fedderm.model.stages import LastStages, stages_of
from fedderm.model.state import to_arrays
from fedderm.settings import ModelSettings
from fedderm.training import Stretch, train_locally
from fedderm.training_settings import TrainingSettings
from fedderm.trainset import site_train_set

PAPERS = Path(__file__).parents[1] / "configs" / "papers"
BACKBONES = {
    "resnet50": (32, 2048),
    "mobilenetv1_100": (32, 1024),
    "inception_v3": (75, 2048),
    "densenet169": (32, 1664),
    "inception_resnet_v2": (75, 1536),
}
"""The fewest pixels a side that the network takes (choice: 32 at least), and its features."""


def settings_of(name: str, side: int) -> ModelSettings:
    return ModelSettings(backbone=name, pretrained="none", image_size=side, scheme="binary")


def step(model: Cascade | LastStages, training: TrainingSettings, side: int) -> np.ndarray:
    """Train one step on noise; return logits (4,)."""
    pixels = np.random.default_rng(2).integers(0, 256, (4, side, side, 3)).astype(np.uint8)
    data = site_train_set(pixels, np.arange(4), np.arange(4, dtype=np.int64) % 2, training)
    assert np.isfinite(train_locally(model, data, training, Stretch(1, 1), [3]).loss)
    return predict_logits(model, pixels, np.arange(4), 1, "float32")[0]


@pytest.mark.parametrize("name", BACKBONES)
def test_it_builds_learns_and_scores(name: str) -> None:
    """The last stages' update of a first step reaches the scores, and nothing before them."""
    torch.set_num_threads(1)
    side, width = BACKBONES[name]
    model = settings_of(name, side)
    whole = initial_model(model, 1)
    assert whole.triage.in_features == width
    assert whole.features(torch.zeros(2, 3, side, side))[0].shape == (2, width)
    raw = {"batch_size": 2, "local_steps": 1, "trunk": "last_stages", "learning_rate": 0.01}
    training = TrainingSettings.model_validate(raw)
    before = to_arrays(whole)
    part = LastStages(whole, model, training)
    logits = step(part, training, side)
    assert logits.shape == (4,)
    assert np.isfinite(logits).all()
    after = to_arrays(whole)
    moved = {one for one in after if not np.array_equal(before[one], after[one])}
    assert moved <= set(to_arrays(part))
    assert any(is_trunk(one) for one in moved)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_all_of_its_layers_learn(name: str) -> None:
    torch.set_num_threads(1)
    side, _ = BACKBONES[name]
    model = settings_of(name, side)
    whole = initial_model(model, 1)
    with torch.no_grad():  # heads start at zero, which lets no gradient through in the first step
        whole.triage.weight.fill_(0.01)
    before = to_arrays(whole)
    training = TrainingSettings.model_validate({"batch_size": 2, "local_steps": 1, "learning_rate": 0.01})
    assert np.isfinite(step(whole, training, side)).all()
    after = to_arrays(whole)
    still = [
        key
        for key, _ in whole.named_parameters()
        if np.array_equal(before[key], after[key]) and before[key].ndim > 1
    ]
    assert not still, "a layer that gets no gradient, such as an auxiliary head"


def raw() -> dict[str, Any]:
    return config.load(PAPERS / "transfer.yaml").compare.model_dump()  # type: ignore[union-attr]


def test_each_arm_has_its_backbones_own_size_and_fewer_stages_than_there_are() -> None:
    arms = raw()["arms"]
    assert {arm["model"]["backbone"] for arm in arms.values()} == set(BACKBONES)
    assert len(arms) == 5 * 3 * 2, "backbones, depths, pooled and federated"
    for label, arm in arms.items():
        name = arm["model"]["backbone"]
        size = timm.get_pretrained_cfg(name).input_size  # type: ignore[union-attr]
        assert size == (3, arm["model"]["image_size"], arm["model"]["image_size"]), label
        if "last stages" in label:
            with torch.device("meta"):
                stages = stages_of(timm.create_model(name, num_classes=0))
            assert arm["training"]["last_stages"] < len(stages)


def test_the_papers_configs_can_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 backbones x 3 depths x pooled or not x 6 values x 3 seeds, once files of weights are there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    for name in BACKBONES:
        (tmp_path / "weights" / f"{name}.safetensors").touch()
    assert len(cells_of(config.load(PAPERS / "transfer.yaml"))) == 5 * 3 * 2 * 6 * 3
    assert len(cells_of(config.load(PAPERS / "transfer_small.yaml"))) == 3 * 2 * 2 * 3
