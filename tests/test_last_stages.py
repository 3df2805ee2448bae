"""Fine-tuning depth: which stages learn, that the others do not move, and what does not go with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from federations import raw_config

from fedderm import config
from fedderm.combinations import check_choices
from fedderm.model.cascade import Cascade
from fedderm.model.frozen import frozen_trunk, initial_model, is_trunk
from fedderm.model.stages import LastStages, stages_of
from fedderm.model.state import load_arrays, to_arrays
from fedderm.optimizers import rate_factors
from fedderm.private_gradient import PrivateGradient
from fedderm.settings import ModelSettings
from fedderm.training import AddedGradient, Stretch, train_locally
from fedderm.training_settings import TrainingSettings
from fedderm.trainset import site_train_set
from strategies.site_side import LocalObjective


def depth(stages: int = 1, **more: Any) -> TrainingSettings:
    raw = {"trunk": "last_stages", "last_stages": stages, "batch_size": 8, "learning_rate": 0.01}
    return TrainingSettings.model_validate({**raw, **more})


def settings(backbone: str = "test_resnet", trunk: str = "shared") -> ModelSettings:
    raw = {"backbone": backbone, "image_size": 32, "pretrained": "none", "trunk": trunk}
    return ModelSettings.model_validate(raw)


def tuned(model: ModelSettings, stages: int = 1) -> LastStages:
    return LastStages(initial_model(model, 5), model, depth(stages))


def train(model: LastStages | Cascade, training: TrainingSettings) -> float:
    pixels = np.random.default_rng(2).integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)
    data = site_train_set(pixels, np.arange(24), np.arange(24, dtype=np.int64) % 4, training)
    return train_locally(model, data, training, Stretch(1, 1), [3]).loss


def prefixes(model: LastStages, depth: int) -> set[str]:
    return {".".join(name.split(".")[:depth]) for name in to_arrays(model) if is_trunk(name)}


def test_the_last_stages_of_a_resnet_are_its_layers() -> None:
    assert prefixes(tuned(settings(), 1), 3) == {"trunks.0.layer4"}
    assert prefixes(tuned(settings(), 2), 3) == {"trunks.0.layer3", "trunks.0.layer4"}


def test_a_last_norm_belongs_to_the_stage_before_it() -> None:
    """timm counts ConvNeXt's and Swin's last norm, and DenseNet's, as a stage: it alone would be no depth."""
    convnext = stages_of(timm.create_model("test_convnext", num_classes=0))
    assert len(convnext) == 5
    assert {name.rpartition(".")[0] for name in convnext[-1] if "stages" not in name} == {"head.norm"}
    densenet = stages_of(timm.create_model("densenet121", num_classes=0))
    assert {name.split(".")[1] for name in densenet[-1]} == {"denseblock4", "norm5"}


@pytest.mark.parametrize(
    ("backbone", "count"),
    [
        ("resnet50", 5),
        ("mobilenetv1_100", 6),
        ("mobilenetv2_100", 8),
        ("inception_v3", 13),
        ("densenet169", 5),
        ("inception_resnet_v2", 45),
        ("tf_efficientnet_lite0", 8),
        ("vit_base_patch16_224", 13),
        ("convnext_small", 5),
    ],
)
def test_the_table_of_stages_in_the_docs(backbone: str, count: int) -> None:
    with torch.device("meta"):
        network = timm.create_model(backbone, num_classes=0)
    stages = stages_of(network)
    assert len(stages) == count
    assert sorted(name for stage in stages for name in stage) == sorted(
        name for name, _ in network.named_parameters()
    )
    text = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    assert f"{backbone} {count}" in text.replace("\n", " ")


@pytest.mark.parametrize(
    ("backbone", "trunk", "expected"),
    [
        ("test_vit", "shared", {"trunks.0.blocks.5", "trunks.0.norm"}),
        ("test_resnet", "separate", {"trunks.0.layer4", "trunks.1.layer4"}),
        ("test_resnet+test_resnet", "shared", {"trunks.0.branches"}),
    ],
)
def test_every_trunk_and_every_fused_backbone_has_its_own(
    backbone: str, trunk: str, expected: set[str]
) -> None:
    model = tuned(settings(backbone, trunk))
    found = {".".join(name.split(".")[: 4 if "blocks" in name else 3]) for name in to_arrays(model)}
    assert {
        name.removesuffix(".weight").removesuffix(".bias") for name in found if is_trunk(name)
    } == expected
    if "+" in backbone:
        assert {name.split(".")[3] for name in to_arrays(model) if is_trunk(name)} == {"0", "1"}


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_only_the_last_stages_and_the_heads_move(backbone: str) -> None:
    model = settings(backbone)
    whole = initial_model(model, 5)
    before = to_arrays(whole)
    part = LastStages(whole, model, depth())
    sent = set(to_arrays(part))
    train(part, depth())
    after = to_arrays(whole)
    moved = {name for name in after if not np.array_equal(after[name], before[name])}
    assert moved <= sent
    assert any(is_trunk(name) for name in moved)
    assert any(not is_trunk(name) for name in moved)
    assert not any(module.training for module in whole.trunks.modules()), "statistics stay as they were"
    assert all(one.grad is None for one in whole.trunks.parameters())


def test_a_step_is_the_whole_models_where_that_moves() -> None:
    """With SGD and no clipping in effect the last stage's gradient is the same, however far it is taken."""
    model, raw = settings(), {"optimizer": "sgd", "momentum": 0, "clip_norm": 1e6, "local_steps": 1}
    part, whole = tuned(model), initial_model(model, 5)
    train(part, depth(**raw))
    train(whole, TrainingSettings.model_validate({**raw, "batch_size": 8, "learning_rate": 0.01}))
    full = to_arrays(whole)
    for name, array in to_arrays(part).items():
        np.testing.assert_allclose(array, full[name], rtol=0, atol=1e-6, err_msg=name)
    first = "trunks.0.layer1.0.conv1.weight"
    assert not np.array_equal(full[first], to_arrays(initial_model(model, 5))[first])


def test_the_gradient_ends_where_the_first_stage_that_learns_begins() -> None:
    part = tuned(settings("test_resnet"), 1)
    seen: dict[str, bool] = {}
    network = part.trunks[0]

    def watch(name: str) -> None:
        getattr(network, name).register_forward_hook(
            lambda *told: seen.update({name: told[-1].requires_grad})
        )

    for name in ("layer3", "layer4"):
        watch(name)
    part.features(torch.rand(2, 3, 32, 32))
    assert seen == {"layer3": False, "layer4": True}


def test_what_is_sent_comes_back_and_the_frozen_part_cannot_be_sent() -> None:
    model = settings()
    part, other = tuned(model), tuned(model)
    train(part, depth())
    load_arrays(other, to_arrays(part))
    assert all(
        np.array_equal(a, b) for a, b in zip(to_arrays(part).values(), to_arrays(other).values(), strict=True)
    )
    early = "trunks.0.layer1.0.conv1.weight"
    frozen = frozen_trunk(initial_model(model, 5)).arrays[early]
    with pytest.raises(ValueError, match=r"do not fit .*it has no .*layer1\.0\.conv1"):
        load_arrays(other, {**to_arrays(part), early: frozen + 1})
    assert np.array_equal(to_arrays(other._whole[0])[early], frozen)
    lacking = dict(list(to_arrays(part).items())[:-1])
    with pytest.raises(ValueError, match=r"do not fit .*they lack"):
        load_arrays(other, lacking)


def test_rates_proximal_terms_and_private_gradients_are_of_what_learns() -> None:
    part = tuned(settings())
    factors = rate_factors(part, depth(head_factor=7))
    assert set(factors) == set(to_arrays(part))
    assert {name: factor for name, factor in factors.items() if factor != 7} == {
        name: 1.0 for name in factors if is_trunk(name)
    }
    assert len(AddedGradient(part, LocalObjective(0.1))._held) == len(factors)
    private = depth(privacy={"noise_multiplier": 1.0})
    assert private.privacy is not None
    found = PrivateGradient(part, private, private.privacy, 32, 8)
    assert set(found._trained) == set(factors)
    before = to_arrays(part)
    train(part, private)
    assert all(not np.array_equal(before[name], array) for name, array in to_arrays(part).items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"training": {"last_stages": 5}},
            r"5 of the 5 stages of backbone test_resnet .* give 1 to 4, or set trunk: trained",
        ),
        ({"training": {"trunk": "frozen", "last_stages": 2}}, "last_stages belongs to trunk: last_stages"),
        ({"training": {"norm_statistics": "local"}}, "last_stages keeps all statistics as they were"),
        (
            {"model": {"backbone": "poolformer_s12"}},
            "timm does not say what the stages of backbone poolformer_s12",
        ),
        (
            {"strategy": {"name": "fedbn"}},
            r"with training\.trunk: last_stages BatchNorm keeps its statistics",
        ),
        ({"strategy": {"name": "fed3r"}, "rounds": 1}, r"set training\.trunk: frozen"),
        ({"model": {"pretrained": "hub"}}, "hub would have every site fetch the frozen trunk itself"),
    ],
)
def test_what_does_not_go_with_last_stages_is_refused(tmp_path: Path, changes: Any, words: str) -> None:
    training = {"trunk": "last_stages", **changes.get("training", {})}
    with pytest.raises(ValueError, match=words):
        check_choices(config.parse(raw_config(tmp_path, **{**changes, "training": training})))
