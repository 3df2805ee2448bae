"""MixUp and CutMix: what is mixed, with whom, and what is learnt of it; elastic deformation."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from fedderm.augment import augment, draw
from fedderm.batch_gradient import BatchGradient
from fedderm.batches import Batch, training_batches
from fedderm.mixing import draw_mixing, mixed, mixture_of
from fedderm.model.cascade import Cascade
from fedderm.settings import ModelSettings
from fedderm.training_settings import AugmentationSettings, TrainingSettings
from fedderm.trainset import TrainSet

SIDE = 32
CPU = torch.device("cpu")


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def still(mixing: str, **changes: Any) -> AugmentationSettings:
    return AugmentationSettings.model_validate({"geometry": 0, "colour": 0, "mixing": mixing, **changes})


def flat(count: int) -> Tensor:
    """Return images of one grey each, their own number over ``count``."""
    return (torch.arange(count) / count).view(-1, 1, 1, 1).expand(count, 3, SIDE, SIDE).contiguous()


@pytest.mark.parametrize("alpha", [0.05, 0.4, 1.0, 3.0])
def test_shares_are_draws_of_the_beta_distribution(alpha: float) -> None:
    drawn = draw_mixing(4000, still("mixup", mixing_alpha=alpha), generator())
    own = drawn[:, 1].double().numpy()
    for point in (
        0.001,
        0.05,
        0.3,
        0.5,
        0.8,
        0.99,
        0.999,
    ):  # a float32 rounds small alphas' shares to 0 and 1
        assert float((own <= point).mean()) == pytest.approx(beta(alpha, alpha).cdf(point), abs=0.03)
    assert sorted(drawn[:, 0].int().tolist()) == list(range(4000)), "everybody is somebody's partner"


def test_mixup_is_the_weighted_mean_of_two_images() -> None:
    settings = still("mixup")
    drawn = draw_mixing(6, settings, generator())
    mixture = mixture_of(drawn, settings, SIDE)
    images = flat(6)
    found = mixed(images, images[mixture.partners], mixture, settings)
    expected = mixture.own * torch.arange(6) / 6 + (1 - mixture.own) * mixture.partners / 6
    torch.testing.assert_close(found[:, 0, 5, 7], expected)


def test_cutmix_pastes_a_box_and_counts_its_pixels() -> None:
    settings = still("cutmix", mixing_alpha=1.0)
    drawn = draw_mixing(200, settings, generator())
    mixture = mixture_of(drawn, settings, SIDE)
    images = flat(200)
    found = mixed(images, images[mixture.partners], mixture, settings)
    others = (found[:, 0] != images[:, 0]).float()
    moved = mixture.partners != torch.arange(200)
    torch.testing.assert_close(1 - others.mean(dim=(1, 2))[moved], mixture.own[moved])
    for one in others[moved][:20]:  # what is pasted is one box
        down, across = one.amax(dim=1), one.amax(dim=0)
        torch.testing.assert_close(one, down[:, None] * across[None, :])
    assert 0.4 < float(mixture.own.mean()) < 0.75, "boxes that reach beyond the image take less of it"


def network() -> Cascade:
    torch.manual_seed(0)
    model = Cascade(ModelSettings(backbone="test_resnet", pretrained="none", image_size=SIDE, dropout=0.0))
    for parameter in model.head_parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    return model


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_the_loss_is_mixed_as_the_images_are_and_a_batch_in_parts_learns_the_same(mixing: str) -> None:
    augmentation = AugmentationSettings.model_validate({"mixing": mixing})
    settings = TrainingSettings(augmentation=augmentation)
    source = generator(3)
    pixels = torch.randint(0, 256, (6, SIDE, SIDE, 3), dtype=torch.uint8, generator=source)
    drawn = torch.cat([draw(6, augmentation, source), draw_mixing(6, augmentation, source)], dim=1)
    batch = Batch(pixels, drawn, augmentation)
    classes, terms = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([[0.0, 0, 0, 0, 1, 1]] * 6)

    def gradients(parts: int) -> tuple[Tensor, dict[str, Tensor]]:
        model = network()
        gradient = BatchGradient(model, settings, SIDE)
        model.eval()
        for _ in range(parts - 1):
            gradient._limit.halve(6)
        told = gradient.add(batch, classes, terms)
        return told, {name: one.grad for name, one in model.named_parameters() if one.grad is not None}

    whole, parts = gradients(1), gradients(2)
    torch.testing.assert_close(whole[0], parts[0])
    for name, one in whole[1].items():
        torch.testing.assert_close(one, parts[1][name], rtol=1e-3, atol=1e-6, msg=name)

    model, mixture = network().eval(), batch.mixture(slice(0, 6))
    assert mixture is not None
    triage = model(batch.inputs(slice(0, 6), CPU)).triage
    malignant = (classes > 0).float()
    soft = mixture.own * malignant + (1 - mixture.own) * malignant[mixture.partners]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(triage, soft)
    torch.testing.assert_close(whole[0][1].float(), expected.detach())


def test_features_are_mixed_too() -> None:
    features = np.random.default_rng(0).standard_normal((8, 4, 1, 5)).astype(np.float32)
    rows = np.stack([np.zeros(8, np.int64), np.arange(8)], axis=1)
    data = TrainSet((features,), rows, np.arange(8) % 4, np.ones(8), np.full((8, 4), 2.0))
    settings = still("mixup", mixing_alpha=1.0)
    with training_batches(data, [np.arange(8)], settings, generator(), CPU) as batches:
        (batch,) = batches
    mixture, plain = batch.mixture(slice(0, 8)), torch.from_numpy(features[:, 0])
    assert mixture is not None
    own = mixture.own.view(-1, 1, 1)
    torch.testing.assert_close(
        batch.inputs(slice(0, 8), CPU), own * plain + (1 - own) * plain[mixture.partners]
    )


def test_elastic_deformation_moves_pixels_smoothly_and_each_image_in_its_own_way() -> None:
    settings = AugmentationSettings(geometry=0, colour=0, elastic=1)
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    ramp = axis.expand(3, SIDE, SIDE)[None].repeat(
        40, 1, 1, 1
    )  # a pixel's brightness tells where it came from
    found = augment(ramp, draw(40, settings, generator()), settings)
    inside = (found - ramp)[:, 0, 4:-4, 4:-4]
    # A displacement is of half a side and has a deviation of 0.05 at the knots; less in between.
    assert 0.01 < float(inside.std()) < 0.03
    assert float((inside[0] - inside[1]).abs().max()) > 0.01
    steps = (inside[:, :, 1:] - inside[:, :, :-1]).abs()
    assert float(steps.max()) < 0.03, "neighbours move together"
    torch.testing.assert_close(augment(ramp, draw(40, settings, generator()), settings), found)
