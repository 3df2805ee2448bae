"""Local training: FedProx's gradient, seeds, norms, schedule, failure, and that it learns."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from test_cascade import network
from torch import Tensor, nn

from fedderm.inference import predict_logits
from fedderm.model.cascade import Cascade
from fedderm.optimizers import optimizer_of, rate_factors, set_rate
from fedderm.training import (
    AddedGradient,
    Stretch,
    TrainResult,
    initial_loss,
    train_locally,
)
from fedderm.training_settings import TrainingSettings
from fedderm.trainset import TrainSet, pool, site_train_set
from strategies.fednova import accumulated_rate
from strategies.site_side import LocalObjective

SEED = (7, 1, 1)


def data(count: int = 24, malignant: int = 12) -> TrainSet:
    """Return noisy images, malignant ones redder in proportion to their class."""
    rng = np.random.default_rng(0)
    classes = np.r_[np.zeros(count - malignant, np.int64), 1 + np.arange(malignant) % 3]
    pixels = rng.integers(60, 160, (count, 32, 32, 3))
    pixels[:, :, :, 0] += 20 * classes[:, None, None]
    return site_train_set(pixels.astype(np.uint8), np.arange(count), classes, TrainingSettings())


def settings(**changes: Any) -> TrainingSettings:
    plain = {"batch_size": 8, "learning_rate": 0.001, "augmentation": {"geometry": 0, "colour": 0}}
    return TrainingSettings.model_validate({**plain, **changes})


def trained(
    seed: Sequence[int] = SEED, mu: float = 0.0, stretch: Stretch | None = None, **changes: Any
) -> tuple[dict[str, Tensor], TrainResult]:
    """Return the state after one round from one and the same start."""
    model = network(dropout=0.2)
    objective = LocalObjective(mu=mu)
    result = train_locally(model, data(), settings(**changes), stretch or Stretch(1, 2), seed, objective)
    return model.state_dict(), result


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(one, second[name]) for name, one in first.items())


def distance(state: dict[str, Tensor]) -> float:
    """Return how far a state's parameters are from the start's."""
    start = network(dropout=0.2)
    names = [name for name, _ in start.named_parameters()]
    return math.sqrt(sum(float((state[name] - start.state_dict()[name]).square().sum()) for name in names))


def test_what_a_method_adds_is_the_gradient_of_its_objective() -> None:
    """Against autograd on ``<offset, w> + mu / 2 * ||w - w0||^2`` itself; biases have no offset."""
    generator = torch.Generator().manual_seed(2)
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    held = [one.detach().clone() for one in layers.parameters()]
    offset = {
        name: torch.randn(one.shape, generator=generator)
        for name, one in layers.named_parameters()
        if name.endswith("weight")
    }
    mu = 0.3
    objective = LocalObjective(mu, {name: one.numpy() for name, one in offset.items()})
    added = AddedGradient(layers, objective)
    with torch.no_grad():
        for one in layers.parameters():
            one.add_(torch.randn(one.shape, generator=generator))
    named = dict(layers.named_parameters())
    ways = zip(named.values(), held, strict=True)
    value = mu / 2 * sum((one - start).square().sum() for one, start in ways)
    value = value + sum((offset[name] * named[name]).sum() for name in offset)
    expected = torch.autograd.grad(value, list(named.values()))
    task = [torch.randn(one.shape, generator=generator) for one in named.values()]
    for one, gradient in zip(named.values(), task, strict=True):
        one.grad = gradient.clone()
    added.apply()
    for one, gradient, tether in zip(named.values(), task, expected, strict=True):
        torch.testing.assert_close(one.grad, gradient + tether)


def test_an_offset_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"offset of bias has shape \[3\]"):
        AddedGradient(nn.Linear(3, 4), LocalObjective(offset={"bias": np.zeros(3)}))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_progress_is_how_far_sgd_goes_along_a_constant_gradient(momentum: float) -> None:
    """Torch's own optimiser on a gradient of one: the way gone is ||a||_1, whatever the rates."""
    rates = [0.1, 0.3, 0.2, 0.05, 0.4]
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=momentum, nesterov=momentum > 0)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    assert -float(weight.detach()) == pytest.approx(
        accumulated_rate(rates, momentum, nesterov=True), rel=1e-12
    )


def test_a_training_reports_its_progress_and_heads_go_their_factor_further() -> None:
    """Constant rates after the warm-up of five steps: 0.002 (1 + 2 + 3 + 4 + 5) / 5 + 0.01 (9 - 5)."""
    plain = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.01, "schedule": "constant"}
    _, result = trained(local_epochs=3, **plain)
    assert result.steps == 9
    assert result.progress == pytest.approx(0.01 * (1 + 2 + 3 + 4 + 5) / 5 + 0.01 * 4)
    factors = rate_factors(network(dropout=0.2), settings(head_factor=7))
    assert {name: one for name, one in factors.items() if one != 1.0} == dict.fromkeys(
        ["triage.weight", "triage.bias", "differentiation.weight", "differentiation.bias"], 7.0
    )


def test_the_initial_loss_is_the_zero_heads_loss() -> None:
    """Heads at zero and no prior: ln 2 for triage, and ln 3 for what is drawn malignant (0.5 of it)."""
    model = network()
    for _, head in model.heads():
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    found = initial_loss(model, data(), settings(label_skew="none"))
    assert found == pytest.approx(math.log(2) + 0.5 * math.log(3), rel=1e-5)


def test_mu_zero_is_fedavgs_training_bit_for_bit() -> None:
    assert equal(trained(mu=0.0)[0], trained()[0])


def test_a_larger_mu_stays_nearer() -> None:
    """With plain steps, no clipping and no warm-up to speak of, mu = 3 binds and mu = 0.1 hardly does."""
    plain = {"optimizer": "sgd", "learning_rate": 0.01, "clip_norm": 1e6, "local_epochs": 6, "head_factor": 1}
    free, loose, tight = (distance(trained(mu=mu, **plain)[0]) for mu in (0.0, 0.1, 3.0))
    assert tight < 0.8 * free
    assert tight < loose < 1.05 * free


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    augmented = {"augmentation": {"geometry": 1, "colour": 1}}
    first, told = trained(**augmented)
    torch.rand(17)  # whatever the process drew before
    second, told_again = trained(**augmented)
    assert equal(first, second)
    assert told == told_again
    assert not equal(first, trained(seed=(7, 1, 2), **augmented)[0])


def test_every_parameter_learns_and_frozen_norms_keep_their_statistics() -> None:
    start = network(dropout=0.2)
    state, _ = trained()
    parameters = {name for name, _ in start.named_parameters()}
    for name, before in start.state_dict().items():
        assert torch.equal(state[name], before) == (name not in parameters), name


def test_local_norms_follow_the_sites_images() -> None:
    start = network(dropout=0.2).state_dict()
    state, result = trained(norm_statistics="local")
    for name in start:
        if name.endswith(("running_mean", "running_var")):
            assert not torch.equal(state[name], start[name]), name
        if name.endswith("num_batches_tracked"):
            assert int(state[name]) == result.steps


def test_local_norms_refuse_batches_of_one() -> None:
    with pytest.raises(ValueError, match=r"norm_statistics: local needs batches of two images or more"):
        trained(norm_statistics="local", batch_size=1)
    assert trained(batch_size=1)[1].steps == 24


@pytest.mark.parametrize(
    ("epochs", "batch", "steps", "images"),
    [(1, 8, 3, 24), (1.5, 8, 4, 32), (0.01, 8, 1, 8), (2, 100, 2, 48), (1, 10, 2, 20)],
)
def test_steps_follow_from_epochs_and_batches(epochs: float, batch: int, steps: int, images: int) -> None:
    """``round(epochs * 24 / batch)``, at least one; batches are full, and at most the whole set."""
    _, result = trained(local_epochs=epochs, batch_size=batch)
    assert (result.steps, result.images) == (steps, images)


def test_local_steps_are_as_many_for_every_size_of_site_and_add_up_in_a_pool() -> None:
    fixed = settings(local_steps=5, batch_size=8)
    for sites in (data(24, 12), data(16, 8)):
        assert train_locally(network(), sites, fixed, Stretch(1, 2), SEED).steps == 5
    both = pool([data(24, 12), data(16, 8)], balanced=True)
    assert train_locally(network(), both, fixed, Stretch(1, 2), SEED).steps == 10


def test_losses_are_means_per_step() -> None:
    """At a learning rate of almost nothing each step sees the start's loss; a step takes the whole set."""
    still = settings(learning_rate=1e-12, batch_size=24)
    result = train_locally(network(), data(), still, Stretch(1, 1), SEED)
    triage, differential = predict_logits(network(), data().images[0], np.arange(24))
    classes = data().classes
    p = 1 / (1 + np.exp(-triage))
    expected = -np.log(np.where(classes > 0, p, 1 - p)).mean()
    assert result.triage_loss == pytest.approx(expected, rel=1e-4)
    shares = np.exp(differential) / np.exp(differential).sum(axis=1, keepdims=True)
    named = shares[np.arange(24), np.maximum(classes, 1) - 1]
    assert result.loss == pytest.approx(expected - np.log(named[classes > 0]).sum() / 24, rel=1e-4)


@pytest.mark.parametrize("steps_before", [0, 60])
def test_a_loss_that_is_not_finite_names_its_round(steps_before: int) -> None:
    model = network()
    with torch.no_grad():
        model.triage.bias.fill_(float("nan"))
    short = settings(local_epochs=(steps_before + 2) / 12, batch_size=2)
    with pytest.raises(
        ValueError, match=r"loss is not finite by step \d+ of round 4; lower training\.learning"
    ):
        train_locally(model, data(), short, Stretch(4, 9), SEED)


def test_an_infinite_step_is_noticed_within_fifty() -> None:
    wild = settings(local_epochs=10, batch_size=2, learning_rate=1e30, clip_norm=1e30, optimizer="sgd")
    with pytest.raises(ValueError, match="by step 50 of round 1"):
        train_locally(network(), data(), wild, Stretch(1, 1), SEED)


def rates(done: float, warmth: float = 1.0, **changes: Any) -> list[float]:
    """Return trunk's and heads' learning rates."""
    model = network()
    optimizer = optimizer_of(model, settings(**changes), torch.device("cpu"))
    set_rate(optimizer, settings(**changes), done, warmth)
    return sorted({group["lr"] for group in optimizer.param_groups})


def test_the_schedule_falls_as_a_cosine_over_all_rounds() -> None:
    assert rates(0.5, head_factor=10) == pytest.approx([0.0005, 0.005])
    assert rates(0.75, head_factor=1) == pytest.approx([0.001 * 0.5 * (1 - math.sqrt(0.5))])
    assert rates(0.5, 0.2, head_factor=1) == pytest.approx([0.0001])
    assert rates(0.9, schedule="constant", head_factor=1) == pytest.approx([0.001])


def test_a_rounds_rate_is_its_place_in_the_whole() -> None:
    """The last round of many moves the weights far less than one in the middle."""
    middle, last = (distance(trained(stretch=Stretch(number, 20))[0]) for number in (8, 20))
    assert last < 0.1 * middle


def test_only_weights_decay() -> None:
    """Biases and the norms' scales have no gradient here: what still moves them is decay."""
    model = network()
    optimizer = optimizer_of(model, settings(weight_decay=0.5, head_factor=2), torch.device("cpu"))
    start = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = start[name] * (0.95 if parameter.ndim > 1 else 1)
        torch.testing.assert_close(parameter.detach(), expected)


def test_no_step_is_longer_than_the_clip_norm() -> None:
    """One plain step goes as far as rate and clip norm allow, however steep the loss."""
    model = network()
    plain = settings(
        optimizer="sgd",
        learning_rate=1.0,
        clip_norm=1e-3,
        batch_size=24,
        weight_decay=0,
        head_factor=1,
        schedule="constant",
    )
    before = [one.detach().clone() for one in model.parameters()]
    train_locally(model, data(), plain, Stretch(2, 2), SEED)
    ways = [float((a - b).detach().norm()) for a, b in zip(model.parameters(), before, strict=True)]
    # Nesterov's first step is gradient + 0.9 gradient; warm-up takes a fifth of the rate.
    assert math.hypot(*ways) == pytest.approx(0.2 * 1.9 * 1e-3, rel=0.01)


def test_the_worker_keeps_no_gradients() -> None:
    model = network()
    train_locally(model, data(), settings(), Stretch(1, 1), SEED)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("scheme", ["binary", "four_class", "cascade"])
def test_a_small_net_learns_sixteen_images_by_heart(scheme: str) -> None:
    model: Cascade = network(scheme)
    small = data(16, 8)
    fast = settings(local_epochs=20, learning_rate=0.003)
    first = train_locally(model, small, settings(), Stretch(1, 1), SEED).loss
    last = train_locally(model, small, fast, Stretch(1, 1), SEED).loss
    triage, differential = predict_logits(model, small.images[0], np.arange(16))
    assert roc_auc_score(small.classes > 0, triage) == 1.0
    assert last < first
    if differential is not None:
        named = differential.argmax(axis=1) + 1
        assert (named == small.classes)[small.classes > 0].mean() >= 7 / 8


def test_bfloat16_learns_much_the_same() -> None:
    exact, _ = trained()
    rounded, _ = trained(precision="bfloat16")
    assert not equal(exact, rounded)
    assert distance(rounded) == pytest.approx(distance(exact), rel=0.2)
    assert all(one.dtype != torch.bfloat16 for one in rounded.values())
