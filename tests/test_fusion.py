"""Backbones fused late: features side by side, each with its own normalisation and weights."""

from pathlib import Path

import pytest
import torch

from fedderm.model.backbones import build_backbone
from fedderm.model.cascade import Cascade
from fedderm.model.frozen import frozen_trunk
from fedderm.model.names import PACKAGED, branches_of, check_names
from fedderm.model.state import load_arrays, to_arrays
from fedderm.settings import ModelSettings

PAIR = f"test_resnet+{PACKAGED}"


def settings(**changes: object) -> ModelSettings:
    given = {"backbone": PAIR, "pretrained": "none+package", "image_size": 64, **changes}
    return ModelSettings.model_validate(given)


def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def test_the_heads_see_what_each_would_give_alone_after_its_own_normalisation() -> None:
    torch.manual_seed(4)
    fused = Cascade(settings()).eval()
    alone = build_backbone(PACKAGED, 64, "package")
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (alone.mean, alone.std))
    with torch.no_grad():
        seen, _ = fused.features(pixels())
        expected = alone.network.eval()((pixels() - mean) / std)
    assert seen.shape == (2, build_backbone("test_resnet", 64, "none").features + alone.features)
    torch.testing.assert_close(seen[:, -alone.features :], expected)


def test_both_learn_in_the_memory_format_of_a_round() -> None:
    model = Cascade(settings()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.nn.init.ones_(model.triage.weight)
    model(pixels()).triage.sum().backward()
    for branch in model.trunks[0].branches:
        assert any(one.grad is not None and one.grad.abs().sum() > 0 for one in branch.parameters())


def test_weights_travel_and_the_order_of_backbones_counts() -> None:
    torch.manual_seed(5)
    model = Cascade(settings())
    copy = Cascade(settings(), pretrained=False)
    load_arrays(copy, to_arrays(model))
    with torch.no_grad():
        torch.testing.assert_close(copy.eval()(pixels()).triage, model.eval()(pixels()).triage)
    twins = [Cascade(settings(backbone=one, pretrained="none")) for one in (PAIR, f"{PACKAGED}+test_resnet")]
    assert len({frozen_trunk(one).digest for one in twins}) == 2


@pytest.mark.parametrize(
    ("backbone", "pretrained", "sentence"),
    [
        ("test_resnet+", "none", "test_resnet.* lacks a name beside its plus"),
        (PAIR, "none+none+none", "is of 3 backbones and .* fuses 2"),
        (PAIR, "package", "no package holds weights for test_resnet"),
        ("test_resnet+resnet81", "none", "timm has no model resnet81; did you mean"),
    ],
)
def test_what_cannot_be_fused_is_one_sentence(backbone: str, pretrained: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_names(ModelSettings(backbone=backbone, pretrained=pretrained))


def test_a_plus_in_the_path_of_one_backbones_file_is_part_of_it(tmp_path: Path) -> None:
    file = f"{tmp_path}/a+b.safetensors"
    assert branches_of("test_resnet", file) == [("test_resnet", file)]
