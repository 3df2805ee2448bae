"""Low-rank adapters: the frozen network at first, the merged one at the end, and nothing else that trains."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import raw_config
from torch import nn

from fedderm import config
from fedderm.combinations import check_choices
from fedderm.inference import predict_logits
from fedderm.model.cascade import Cascade
from fedderm.model.frozen import frozen_trunk, initial_model
from fedderm.model.lora import Adapted, adaptable, first_adapters, merged
from fedderm.model.state import load_arrays, to_arrays
from fedderm.settings import ModelSettings
from fedderm.training import Stretch, train_locally
from fedderm.training_settings import TrainingSettings
from fedderm.trainset import site_train_set

LORA = TrainingSettings(trunk="lora", batch_size=8, learning_rate=0.01)


def settings(backbone: str = "test_vit", image_size: int = 32, trunk: str = "shared") -> ModelSettings:
    return ModelSettings.model_validate(
        {"backbone": backbone, "image_size": image_size, "pretrained": "none", "trunk": trunk}
    )


def adapted(model: ModelSettings, training: TrainingSettings = LORA, seed: int = 5) -> Adapted:
    return first_adapters(initial_model(model, seed), model, training, seed)


def awake(model: ModelSettings) -> Cascade:
    """A random network as a trained one is: its blocks' last norm or scale does not silence them."""
    whole = initial_model(model, 5)
    with torch.no_grad():
        for name, parameter in whole.trunks.named_parameters():
            if parameter.ndim == 1 and name.endswith(("weight", "gamma")):
                parameter.fill_(1)
    return whole


def images(count: int = 24, side: int = 32) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def classes(count: int = 24) -> np.ndarray:
    return np.arange(count, dtype=np.int64) % 4


def trained(model: Adapted, training: TrainingSettings = LORA) -> float:
    """Train on noise with four classes; return the loss per image."""
    data = site_train_set(images(), np.arange(24), classes(), training)
    return train_locally(model, data, training, Stretch(1, 1), [3]).loss


def logits(model: Adapted | Cascade, pixels: np.ndarray) -> np.ndarray:
    triage, differential = predict_logits(model, pixels, np.arange(len(pixels)), 2, "float32")
    assert differential is not None
    return np.concatenate([triage[:, None], differential], axis=1)


def test_the_first_model_is_the_frozen_one() -> None:
    """Bit for bit: B is zero. Heads are at zero too, so that the trunk's features are compared."""
    model = settings()
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        frozen = initial_model(model, 5).eval().features(pixels)[0]
        first = adapted(model).eval().features(pixels)[0]
    assert torch.equal(frozen, first)


def test_a_is_drawn_from_the_seed_within_the_bound_and_b_is_zero() -> None:
    """Uniform in 1 / sqrt(inputs): 64 inputs give 1/8, and a standard deviation of 1/8 / sqrt(3)."""
    one, same, other = (to_arrays(adapted(settings(), seed=seed)) for seed in (5, 5, 6))
    drawn = [name for name in one if name.endswith(".A")]
    assert len(drawn) == 12, "qkv and proj of six blocks"
    for name in drawn:
        assert one[name].shape[0] == 8
        assert np.array_equal(one[name], same[name])
        assert not np.array_equal(one[name], other[name])
        assert not one[f"{name[:-1]}B"].any()
        assert np.abs(one[name]).max() <= 1 / np.sqrt(one[name].shape[1])
    values = np.concatenate([one[name].ravel() for name in drawn if one[name].shape[1] == 64])
    assert values.std() == pytest.approx(1 / 8 / np.sqrt(3), rel=0.03)


@pytest.mark.parametrize(
    ("backbone", "trunk"),
    [
        ("test_vit", "shared"),
        ("test_vit", "separate"),
        ("test_convnext", "shared"),
        ("test_resnet", "shared"),
    ],
)
def test_merged_weights_give_what_the_adapters_gave(backbone: str, trunk: str) -> None:
    """Attention, linear layers and convolutions of one pixel; alpha over rank is not one here."""
    model = settings(backbone, trunk=trunk)
    training = LORA.model_copy(update={"lora_rank": 4, "lora_alpha": 6.0})
    start = awake(model)
    frozen = frozen_trunk(start).arrays
    before = logits(start, images())
    whole = first_adapters(start, model, training, 5)
    trained(whole, training)
    through = logits(whole, images())
    plain = Cascade(model, pretrained=False)
    load_arrays(plain, merged(frozen, to_arrays(whole), training))
    np.testing.assert_allclose(logits(plain, images()), through, rtol=0, atol=1e-5)
    heads_alone = {**frozen, **{n: a for n, a in to_arrays(whole).items() if not n.startswith("adapters.")}}
    load_arrays(plain, heads_alone)
    assert np.abs(logits(plain, images()) - through).max() > 1e-3, "the adapters have learnt something"
    assert np.abs(before - through).max() > 1e-3


def test_merging_by_hand() -> None:
    """W + alpha / r * B A with r = 2, alpha = 3: [[1], [2]] [[10]] * 1.5 is added; to kernels, too."""
    training = LORA.model_copy(update={"lora_rank": 2, "lora_alpha": 3.0})
    ones = np.ones((2, 1), np.float32)
    trunk = {
        "trunks.0.a.weight": ones,
        "trunks.0.b.weight": ones[:, :, None, None],
        "trunks.0.a.bias": ones[:, 0],
    }
    pair = {"A": np.array([[10.0]], np.float32), "B": np.array([[1.0], [2.0]], np.float32)}
    sent = {f"adapters.0/{layer}.{name}": one for layer in "ab" for name, one in pair.items()}
    found = merged(trunk, {**sent, "triage.weight": ones}, training)
    assert set(found) == {*trunk, "triage.weight"}
    np.testing.assert_array_equal(found["trunks.0.a.weight"], [[16.0], [31.0]])
    np.testing.assert_array_equal(found["trunks.0.b.weight"][:, :, 0, 0], [[16.0], [31.0]])
    assert found["trunks.0.b.weight"].dtype == np.float32
    assert trunk["trunks.0.a.weight"].max() == 1, "the trunk's own arrays are not changed"


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_resnet"])
def test_every_adapter_learns_and_the_trunk_does_not_change(backbone: str) -> None:
    model = settings(backbone)
    whole = awake(model)
    before = {name: array.copy() for name, array in frozen_trunk(whole).arrays.items()}
    tuned = first_adapters(whole, model, LORA, 5)
    start = to_arrays(tuned)
    trained(tuned)
    for name, array in to_arrays(tuned).items():
        assert not np.array_equal(array, start[name]), name
    after = frozen_trunk(whole).arrays
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    assert not any(parameter.requires_grad for parameter in whole.trunks.parameters())
    assert not any(module.training for module in whole.trunks.modules()), "BatchNorm stays as it was"


def test_what_trains_is_adapters_and_heads() -> None:
    tuned = adapted(settings())
    names = {name.partition(".")[0] for name in to_arrays(tuned)}
    assert names == {"triage", "differentiation", "adapters"}
    assert {id(one) for one in tuned.parameters()} == {
        id(one) for one in [*tuned.trunk_parameters(), *tuned.head_parameters()]
    }
    assert all(parameter.requires_grad for parameter in tuned.parameters())


@cache
def vit_b16() -> Cascade:
    """Without memory for its weights: shapes are all that is looked at."""
    with torch.device("meta"):
        return Cascade(settings("vit_b16", 224), pretrained=False)


def test_vit_b16_of_rank_8_sends_a_193rd_of_its_weights() -> None:
    """Twelve blocks: 8 (768 + 2304) for qkv and 8 (768 + 768) for proj; four heads of 768 + 1."""
    model = vit_b16()
    whole = sum(parameter.numel() for parameter in model.parameters())
    tuned = Adapted(model, settings("vit_b16", 224), LORA)
    sent = sum(parameter.numel() for parameter in tuned.parameters())
    assert sent == 12 * (8 * (768 + 2304) + 8 * (768 + 768)) + 4 * 769
    assert whole / sent == pytest.approx(192.6, abs=0.1)


def test_adapters_go_where_attention_is_or_else_into_linear_layers() -> None:
    vit = [name for name, _ in adaptable(initial_model(settings(), 1).trunks)]
    assert vit[:2] == ["0.blocks.0.attn.qkv", "0.blocks.0.attn.proj"]
    assert not any("mlp" in name for name in vit)
    convnext = adaptable(initial_model(settings("test_convnext"), 1).trunks)
    assert all(type(layer) is nn.Linear for _, layer in convnext)
    resnet = adaptable(initial_model(settings("test_resnet"), 1).trunks)
    assert {layer.kernel_size for _, layer in resnet if isinstance(layer, nn.Conv2d)} == {(1, 1)}


def test_a_rank_is_no_larger_than_the_layer() -> None:
    tuned = adapted(settings("test_resnet"), LORA.model_copy(update={"lora_rank": 256}))
    for name, array in to_arrays(tuned).items():
        if name.endswith(".A"):
            assert array.shape[0] <= min(array.shape[1], to_arrays(tuned)[f"{name[:-1]}B"].shape[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": {"name": "fedbn"}}, r"with training\.trunk: lora BatchNorm keeps its statistics"),
        ({"strategy": {"name": "silobn"}}, r"with training\.trunk: lora BatchNorm keeps its statistics"),
        ({"strategy": {"name": "fed3r"}, "rounds": 1}, r"set training\.trunk: frozen"),
        ({"model": {"backbone": "nf_resnet26"}}, "nf_resnet26 has no linear layer and no convolution"),
        (
            {"model": {"backbone": "eva02_tiny_patch14_224", "image_size": 56}},
            r"reads the weights of its layer 0\.blocks\.0\.attn\.qkv past the layer itself",
        ),
        ({"training": {"norm_statistics": "local"}}, "keeps all but adapters as it was"),
        ({"training": {"trunk": "frozen", "lora_rank": 4}}, "lora_rank and lora_alpha belong to trunk: lora"),
        ({"model": {"pretrained": "hub"}}, "hub would have every site fetch the frozen trunk itself"),
    ],
)
def test_what_does_not_go_with_adapters_is_refused(tmp_path: Path, changes: Any, words: str) -> None:
    training = {"trunk": "lora", **changes.get("training", {})}
    with pytest.raises(ValueError, match=words):
        check_choices(config.parse(raw_config(tmp_path, **{**changes, "training": training})))


@pytest.mark.parametrize("name", ["fedper", "scaffold", "feddyn", "fedadam", "cyclic", "krum"])
def test_other_strategies_go_with_adapters(tmp_path: Path, name: str) -> None:
    sites = [{"name": one, "lesions": 30} for one in ("a", "b", "c", "d")]
    training = {"trunk": "lora", "optimizer": "sgd", "head_start": "ridge"}
    check_choices(config.parse(raw_config(tmp_path, sites, strategy={"name": name}, training=training)))
