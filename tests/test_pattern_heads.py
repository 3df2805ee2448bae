"""BCC and pattern heads: masked losses, a network that learns them, and that other heads do not notice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedderm.inference import score_images
from fedderm.losses import image_losses
from fedderm.model.cascade import Cascade
from fedderm.model.heads import Logits
from fedderm.pattern_losses import pattern_losses
from fedderm.settings import ModelSettings
from fedderm.training import Stretch, train_locally
from fedderm.training_settings import AugmentationSettings, TrainingSettings
from fedderm.trainset import TrainSet, pool, site_train_set

NAN = float("nan")


def settings(**given: object) -> ModelSettings:
    return ModelSettings.model_validate(
        {"backbone": "test_resnet", "pretrained": "none", "image_size": 32, "patterns": True, **given}
    )


def training(**given: object) -> TrainingSettings:
    return TrainingSettings.model_validate(
        {"batch_size": 16, "augmentation": AugmentationSettings(geometry=0, colour=0), **given}
    )


def data(labelled: bool = True) -> TrainSet:
    """96 images: three in four have a bright corner, BCC has the left one; pattern 1 is that left corner."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 60, (96, 32, 32, 3)).astype(np.uint8)
    classes = np.arange(96) % 4
    pixels[classes == 3, :16, :16] = 255
    pixels[(classes == 1) | (classes == 2), 16:, 16:] = 255
    labels = np.full((96, 7), NAN)
    labels[:48, 1] = (classes == 3)[:48]
    labels[48:, 0] = (classes == 0)[48:]
    return site_train_set(pixels, np.arange(96), classes, training(), labels if labelled else None)


def test_a_missing_label_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(3, 8, requires_grad=True)
    labels = torch.full((3, 7), NAN)
    labels[0, 2] = 1.0
    labels[1] = torch.tensor([1.0, 0, NAN, NAN, NAN, NAN, 1])
    losses = pattern_losses(logits, torch.tensor([3, 0, 1]), labels)
    bcc = F.softplus(torch.stack([-logits[0, 0], logits[1, 0], logits[2, 0]]))
    one = F.softplus(-logits[0, 3])
    three = (F.softplus(-logits[1, 1]) + F.softplus(logits[1, 2]) + F.softplus(-logits[1, 7])) / 3
    torch.testing.assert_close(losses, bcc + torch.stack([one, three, torch.tensor(0.0)]))
    losses.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 1:] != 0).sum() == 4


def test_the_weight_multiplies_the_pattern_losses_alone() -> None:
    logits = Logits(torch.randn(4), torch.randn(4, 3), torch.randn(4, 8))
    classes, terms = torch.tensor([0, 1, 2, 3]), torch.tensor([[0.0, 0, 0, 0, 1, 1]] * 4)
    plain = image_losses("cascade", logits._replace(patterns=None), classes, terms, training())[1]
    none = image_losses("cascade", logits, classes, terms, training(pattern_weight=0))[1]
    double = image_losses("cascade", logits, classes, terms, training(pattern_weight=2))[1]
    torch.testing.assert_close(none, plain)
    torch.testing.assert_close(double - plain, 2 * pattern_losses(logits.patterns, classes, None))


@pytest.mark.parametrize("scheme", ["binary", "four_class", "cascade"])
def test_untrained_heads_say_even_odds_and_scores_hold_them(scheme: str) -> None:
    model = Cascade(settings(scheme=scheme))
    found = score_images(model, data().images[0], np.arange(5), 4)
    np.testing.assert_array_equal(found.patterns, np.zeros((5, 8)))
    assert score_images(Cascade(settings(patterns=False)), data().images[0], np.arange(5)).patterns is None


def test_heads_learn_from_the_images_that_have_labels() -> None:
    torch.manual_seed(1)
    model, images = Cascade(settings()), data()
    wanted = training(local_epochs=12.0, learning_rate=0.002)
    train_locally(model, images, wanted, Stretch(1, 1), [1])
    logits = score_images(model, images.images[0], np.arange(96)).patterns
    assert logits is not None
    assert ((logits[:, 0] > 0) == (images.classes == 3)).mean() > 0.95
    assert ((logits[:, 2] > 0) == (images.classes == 3)).mean() > 0.95  # also where the label was missing
    assert ((logits[:, 1] > 0) == (images.classes == 0)).mean() > 0.95
    np.testing.assert_array_equal(model.patterns.weight[3:].detach(), 0)  # nobody judged these


def test_a_site_without_annotations_trains_bcc_and_leaves_patterns_alone() -> None:
    model = Cascade(settings())
    train_locally(model, data(labelled=False), training(), Stretch(1, 1), [1])
    weight = model.patterns.weight.detach()
    assert (weight[0] != 0).any()
    assert (weight[1:] == 0).all()


def test_pooled_sites_keep_each_images_labels() -> None:
    first, second = data(), data(labelled=False)
    pooled = pool([second, first])
    assert pooled.patterns is not None
    assert np.isnan(pooled.patterns[:96]).all()
    np.testing.assert_array_equal(pooled.patterns[96:], first.patterns)
    assert pool([second, replace(second)]).patterns is None
