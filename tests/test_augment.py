"""Augmentation: what stays, what turns, and whose draws they are."""

import math

import pytest
import torch
from torch import Tensor

from fedderm import augment as module
from fedderm.training_settings import AugmentationSettings

OFF = AugmentationSettings(geometry=0, colour=0)
GEOMETRY = AugmentationSettings(geometry=1, colour=0)
COLOUR = AugmentationSettings(geometry=0, colour=1)
SIDE = 48


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augment(images: Tensor, settings: AugmentationSettings, source: torch.Generator) -> Tensor:
    """Return ``images`` after draws from ``source``."""
    return module.augment(images, module.draw(len(images), settings, source), settings)


def noise(count: int = 8) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=generator(0))


def spots(count: int, radius: float) -> Tensor:
    """Return images, black but for a soft spot ``radius`` to the right of the centre (the edge is at 1).

    Its reflection beyond the edge is at 2 - ``radius``, out of sight.
    """
    axis = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    spot = torch.exp(-((axis[None, :] - radius) ** 2 + axis[:, None] ** 2) / 0.01)
    return spot.expand(count, 3, SIDE, SIDE).contiguous()


def positions(images: Tensor) -> Tensor:
    """Return each image's centre of mass (B, 2) as x, y in -1..1."""
    axis = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    mass = images[:, 0] / images[:, 0].sum(dim=(1, 2), keepdim=True)
    return torch.stack([(mass * axis[None, :]).sum((1, 2)), (mass * axis[:, None]).sum((1, 2))], dim=1)


def test_strength_zero_changes_nothing_and_draws_nothing() -> None:
    source = generator()
    before = source.get_state()
    assert augment(noise(), OFF, source) is not None
    torch.testing.assert_close(augment(noise(), OFF, source), noise(), rtol=0, atol=0)
    assert torch.equal(source.get_state(), before)


@pytest.mark.parametrize("settings", [GEOMETRY, COLOUR, AugmentationSettings(geometry=3, colour=3)])
def test_values_stay_between_zero_and_one(settings: AugmentationSettings) -> None:
    extremes = torch.cat([noise(), torch.zeros(2, 3, SIDE, SIDE), torch.ones(2, 3, SIDE, SIDE)])
    changed = augment(extremes, settings, generator())
    assert changed.shape == extremes.shape
    assert torch.isfinite(changed).all()
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1 + 1e-6


@pytest.mark.parametrize("settings", [GEOMETRY, COLOUR])
def test_each_image_of_a_batch_has_its_own_draw(settings: AugmentationSettings) -> None:
    changed = augment(noise(1).expand(16, -1, -1, -1), settings, generator())
    assert len({one.numpy().tobytes() for one in changed}) == 16


@pytest.mark.parametrize("settings", [GEOMETRY, COLOUR])
def test_draws_follow_the_generator_alone(settings: AugmentationSettings) -> None:
    first = augment(noise(), settings, generator())
    torch.manual_seed(12345)
    assert torch.equal(first, augment(noise(), settings, generator()))
    assert not torch.equal(first, augment(noise(), settings, generator(2)))


def test_the_input_is_left_alone() -> None:
    source = noise()
    augment(source, AugmentationSettings(), generator())
    assert torch.equal(source, noise())


def test_images_turn_by_every_angle_and_half_are_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without zoom, stretch and shift a spot at radius 0.35 stays there, and its angle is uniform.

    The mean resultant length of 400 uniform angles is about 0.05 and below 0.15 with P > 1 - exp(-9).
    """
    for name in ("ZOOM", "ASPECT", "SHIFT"):
        monkeypatch.setattr(module, name, 0.0)
    found = positions(augment(spots(400, 0.35), GEOMETRY, generator()))
    radius = torch.hypot(found[:, 0], found[:, 1])
    torch.testing.assert_close(radius, torch.full_like(radius, 0.35), rtol=0, atol=0.01)
    angle = torch.atan2(found[:, 1], found[:, 0])
    resultant = math.hypot(float(torch.cos(angle).mean()), float(torch.sin(angle).mean()))
    assert resultant < 0.15
    # A second spot a quarter turn ahead tells turning from mirroring.
    two = spots(400, 0.35)
    two[:, 0] += 0.5 * spots(400, 0.35).rot90(1, (2, 3))[:, 0]
    both = augment(two, GEOMETRY, generator())
    second = positions((both[:, :1] - both[:, 1:2]).clamp(min=0))
    first = positions(both[:, 1:2])
    side = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    assert torch.all(side.abs() > 0.08)
    assert 0.4 < float((side > 0).float().mean()) < 0.6


def test_zoom_keeps_to_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spot's radius is 0.1 / zoom, zoom within exp(-0.25) and exp(0.25)."""
    for name in ("ASPECT", "SHIFT"):
        monkeypatch.setattr(module, name, 0.0)
    found = positions(augment(spots(200, 0.1), GEOMETRY, generator()))
    ratio = torch.hypot(found[:, 0], found[:, 1]) / 0.1
    assert math.exp(-0.25) - 0.03 < float(ratio.min()) < 0.85
    assert 1.15 < float(ratio.max()) < math.exp(0.25) + 0.03


def test_colour_acts_on_every_pixel_alike() -> None:
    """Shuffling an image's pixels and changing its colour commute."""
    order = torch.randperm(SIDE * SIDE, generator=generator(9))

    def shuffled(images: Tensor) -> Tensor:
        return images.flatten(2)[:, :, order].unflatten(2, (SIDE, SIDE))

    changed = augment(noise(), COLOUR, generator())
    torch.testing.assert_close(augment(shuffled(noise()), COLOUR, generator()), shuffled(changed))
    assert not torch.allclose(changed, noise(), atol=0.05)


def test_channel_gains_have_the_stated_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On grey 0.4 the log of the red-to-green ratio has standard deviation sqrt(2) * 0.10."""
    for name in ("GAMMA", "SATURATION", "CONTRAST", "BRIGHTNESS"):
        monkeypatch.setattr(module, name, 0.0)
    changed = augment(torch.full((2000, 3, 2, 2), 0.4), COLOUR, generator())
    ratio = torch.log(changed[:, 0, 0, 0] / changed[:, 1, 0, 0])
    assert float(ratio.std()) == pytest.approx(math.sqrt(2) * 0.10, rel=0.08)
    assert float(ratio.mean()) == pytest.approx(0, abs=0.01)
