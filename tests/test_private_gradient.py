"""DP-SGD: each image's own gradient, clipped; noise that no seed fixes; draws that are Poisson's."""

from typing import Any

import numpy as np
import pytest
import torch
from test_cascade import network
from test_training import data, settings
from torch import Tensor

from fedderm.augment import draw
from fedderm.batch_gradient import BatchGradient
from fedderm.batches import Batch
from fedderm.losses import image_losses
from fedderm.model.heads import Heads
from fedderm.model.lora import Adapted
from fedderm.private_gradient import PrivateGradient, poisson_draws
from fedderm.settings import ModelSettings
from fedderm.training import Stretch, train_locally
from fedderm.training_settings import TrainingSettings

pytest.importorskip("opacus")
CLASSES = torch.tensor([0, 1, 2, 3, 0, 2])
TERMS = torch.tensor([[0.0, 0, 0, 0, 1, 1]] * 6)


def private(noise: float, clip: float, **changes: Any) -> TrainingSettings:
    return settings(privacy={"noise_multiplier": noise, "max_grad_norm": clip}, **changes)


def gradient_of(model: Heads, noise: float, clip: float, expected: int = 6) -> PrivateGradient:
    given = private(noise, clip)
    assert given.privacy is not None
    return PrivateGradient(model, given, given.privacy, 32, expected)


def batch(count: int = 6) -> Batch:
    drawn = draw(count, settings().augmentation, torch.Generator().manual_seed(0))
    return Batch(torch.from_numpy(data().batch(np.arange(count)).copy()), drawn, settings().augmentation)


def one_by_one(model: Heads, clip: float) -> dict[str, Tensor]:
    """The same sum by a loop of plain backward passes."""
    total = {name: torch.zeros_like(one) for name, one in model.named_parameters()}
    for position in range(6):
        model.zero_grad()
        part = slice(position, position + 1)
        logits = model(batch().inputs(part, torch.device("cpu")))
        image_losses(model.scheme, logits, CLASSES[part], TERMS[part], settings())[1].sum().backward()
        own = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        norm = float(torch.sqrt(sum((one.square().sum() for one in own.values()), torch.zeros(()))))
        for name, one in own.items():
            total[name] += one * min(1.0, clip / (norm + 1e-6))
    model.zero_grad()
    return total


@pytest.mark.parametrize("clip", [0.05, 1.0, 1e6])
def test_the_clipped_sum_is_that_of_a_loop_over_images(clip: float) -> None:
    model = network(dropout=0.2).eval()
    found = gradient_of(model, 1.0, clip).clipped_sum(batch(), slice(0, 6), CLASSES, TERMS)
    for name, expected in one_by_one(model, clip).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6, msg=name)


def test_an_image_whose_gradient_is_not_finite_adds_nothing() -> None:
    """A NaN that came through would tell, whatever the noise, that the image was there."""
    model, odd = network(dropout=0.0).eval(), TERMS.clone()
    odd[2] = float("inf")
    alone = gradient_of(model, 1.0, 0.5).clipped_sum(batch(), slice(2, 3), CLASSES[2:3], odd[2:3])
    assert all(bool((one == 0).all()) for one in alone.values())
    found = gradient_of(model, 1.0, 0.5).clipped_sum(batch(), slice(0, 6), CLASSES, odd)
    before = gradient_of(model, 1.0, 0.5).clipped_sum(batch(), slice(0, 2), CLASSES[:2], odd[:2])
    after = gradient_of(model, 1.0, 0.5).clipped_sum(batch(), slice(3, 6), CLASSES[3:], odd[3:])
    for name, one in found.items():
        torch.testing.assert_close(one, before[name] + after[name], rtol=1e-4, atol=1e-6, msg=name)


def test_without_noise_and_clipping_it_is_the_batchs_own_gradient() -> None:
    model = network(dropout=0.0).eval()
    BatchGradient(model, settings(), 32).add(batch(), CLASSES, TERMS)
    plain = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    losses = gradient_of(model, 1e-12, 1e6).add(batch(), CLASSES, TERMS)
    for name, one in model.named_parameters():
        torch.testing.assert_close(one.grad, plain[name], rtol=1e-4, atol=2e-6, msg=name)
    assert losses.tolist() == [0, 0], "losses have no noise, and are not told"


def test_an_empty_batch_is_noise_of_the_deviation_that_was_asked_for() -> None:
    """sigma C / L = 1.5 * 2 / 4 = 0.75 on 0.37 M parameters: its standard error is 0.12 %."""
    model = network()
    nothing = Batch(torch.zeros(0, 32, 32, 3, dtype=torch.uint8), torch.zeros(0, 13), settings().augmentation)
    gradient_of(model, 1.5, 2.0, expected=4).add(nothing, CLASSES[:0], TERMS[:0])
    noise = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
    assert len(noise) > 300_000
    assert float(noise.std()) == pytest.approx(0.75, rel=0.01)
    assert abs(float(noise.mean())) < 0.01


def test_no_seed_fixes_what_is_added_and_drawn() -> None:
    def weights(**changes: Any) -> Tensor:
        model = network()
        train_locally(model, data(), private(1.0, 1.0, **changes), Stretch(1, 1), (1, 2))
        return torch.cat([one.detach().flatten() for one in model.parameters()])

    assert not torch.equal(weights(), weights())


def test_each_image_is_drawn_on_its_own() -> None:
    """Of 200 images with probability 0.1: sizes have mean 20 and variance 18, as a binomial's, over 4,000
    steps; some image is drawn as often as another."""
    drawn = poisson_draws(200, 20, 4000)
    sizes = np.array([len(one) for one in drawn])
    assert sizes.mean() == pytest.approx(20, abs=4 * np.sqrt(18 / 4000))
    assert sizes.var() == pytest.approx(18, rel=0.12)
    counts = np.bincount(np.concatenate(drawn), minlength=200)
    assert counts.min() > 400 - 6 * np.sqrt(360)
    assert all(len(np.unique(one)) == len(one) for one in drawn)
    assert [len(one) for one in poisson_draws(7, 7, 3)] == [7, 7, 7]


def test_steps_with_empty_batches_train() -> None:
    """24 images, one expected a step: a third of the batches is empty."""
    model = network()
    result = train_locally(
        model, data(), private(0.5, 1.0, batch_size=1, local_steps=12), Stretch(1, 1), (1, 2)
    )
    assert result.steps == 12
    assert result.loss == result.triage_loss == 0
    assert all(bool(torch.isfinite(one).all()) for one in model.parameters())


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_adapters_and_other_networks_have_gradients_of_their_own(backbone: str) -> None:
    given = ModelSettings(backbone=backbone, pretrained="none", image_size=160)
    torch.manual_seed(1)
    from fedderm.model.cascade import Cascade

    lora = TrainingSettings.model_validate({"trunk": "lora"})
    for model in (Cascade(given).eval(), Adapted(Cascade(given), given, lora)):
        images = torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8)
        drawn = draw(2, settings().augmentation, torch.Generator())
        found = gradient_of(model, 1.0, 1.0).clipped_sum(
            Batch(images, drawn, settings().augmentation), slice(0, 2), CLASSES[:2], TERMS[:2]
        )
        norm = float(torch.sqrt(sum((one.square().sum() for one in found.values()), torch.zeros(()))))
        assert found.keys() == {name for name, one in model.named_parameters() if one.requires_grad}
        assert 0 < norm <= 2.0001


def test_a_server_that_knows_the_seed_does_not_know_how_an_image_was_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nearly without noise, and with every image in every batch, two trainings of one seed still differ."""
    changes: dict[str, Any] = {
        "batch_size": 24,
        "local_steps": 3,
        "optimizer": "sgd",  # Adam would raise the little noise to a step's size where there is no gradient
        "augmentation": {"geometry": 1, "colour": 1},
    }

    def trained(settings: TrainingSettings) -> Tensor:
        model = network()
        train_locally(model, data(), settings, Stretch(1, 1), (1, 2))
        return torch.cat([one.detach().flatten() for one in model.parameters()])

    def apart(settings: TrainingSettings) -> float:
        return float((trained(settings) - trained(settings)).abs().max())

    assert apart(private(1e-12, 1e6, **changes)) > 1e-5
    monkeypatch.setattr("secrets.randbits", lambda _: 7)
    assert apart(private(1e-12, 1e6, **changes)) < 1e-6, "and nothing else made them differ"
    assert apart(settings(**changes)) == 0, "only private training draws what no seed says"
