"""Focal, generalised, class-balanced and cost-sensitive losses: what each is by hand, and what it is for."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from fedderm.label_skew import class_weights, loss_terms
from fedderm.losses import image_losses
from fedderm.model.heads import Logits
from fedderm.training_settings import Scheme, TrainingSettings

CLASSES = torch.tensor([0, 1, 2, 3])
DRAWN = np.tile([60.0, 25.0, 5.0, 10.0], (4, 1))


def settings(**loss: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({"label_skew": "none", "loss": loss})


def logits() -> Logits:
    return Logits(
        torch.tensor([-1.0, 0.5, 2.0, -0.5]),
        torch.tensor([[0.0, 1, 2], [2.0, 0, 1], [0.5, 0.5, 0], [-1, 0, 3]]),
    )


def losses(scheme: Scheme, given: Logits, chosen: TrainingSettings) -> tuple[Tensor, Tensor]:
    terms = torch.from_numpy(loss_terms(DRAWN, CLASSES.numpy(), scheme, chosen)).float()
    return image_losses(scheme, given, CLASSES, terms, chosen)


def test_the_focal_loss_is_that_of_the_paper() -> None:
    """Lin et al., Eq. 4: -(1 - p)^gamma log p of the true class's probability."""
    found, _ = losses("binary", logits(), settings(kind="focal", focal_gamma=2.0))
    p = torch.where(CLASSES > 0, torch.sigmoid(logits().triage), torch.sigmoid(-logits().triage))
    torch.testing.assert_close(found, -((1 - p) ** 2) * p.log())
    plain, _ = losses("binary", logits(), settings(kind="focal", focal_gamma=0))
    torch.testing.assert_close(plain, -p.log(), msg="gamma 0 is cross-entropy")


def test_generalised_cross_entropy_lies_between_cross_entropy_and_mean_absolute_error() -> None:
    """Zhang and Sabuncu, Eq. 6: (1 - p^q) / q; q = 1 is 1 - p, q -> 0 is -log p."""
    p = torch.where(CLASSES > 0, torch.sigmoid(logits().triage), torch.sigmoid(-logits().triage))
    for q, expected in ((1.0, 1 - p), (0.7, (1 - p**0.7) / 0.7)):
        torch.testing.assert_close(
            losses("binary", logits(), settings(kind="generalised", generalised_q=q))[0], expected
        )
    near, _ = losses("binary", logits(), settings(kind="generalised", generalised_q=1e-4))
    torch.testing.assert_close(near, -p.log(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["focal", "generalised"])
def test_four_classes_are_the_one_softmax_that_they_are(kind: str) -> None:
    """The loss is of P(class), not of its two factors one by one."""
    chosen, malignant = settings(kind=kind), logits().differential
    assert malignant is not None
    benign = torch.tensor([0.3, -0.2, 1.0, 0.0])
    four = Logits(torch.logsumexp(malignant, dim=1) - benign, malignant)
    p = F.softmax(torch.cat([benign[:, None], malignant], dim=1), dim=1).gather(1, CLASSES[:, None])[:, 0]
    expected = -((1 - p) ** 2) * p.log() if kind == "focal" else (1 - p**0.7) / 0.7
    torch.testing.assert_close(losses("four_class", four, chosen)[1], expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_finite_where_an_image_is_told_perfectly(gamma: float) -> None:
    triage = torch.tensor([-200.0, 200.0, 200.0, 200.0], requires_grad=True)
    differential = torch.tensor(
        [[0.0, 0, 0], [300.0, 0, 0], [0, 300.0, 0], [0, 0, -300.0]], requires_grad=True
    )
    losses("cascade", Logits(triage, differential), settings(kind="focal", focal_gamma=gamma))[
        1
    ].sum().backward()  # type: ignore[no-untyped-call]
    assert triage.grad is not None
    assert differential.grad is not None
    assert torch.isfinite(triage.grad).all()
    assert torch.isfinite(differential.grad).all()


def test_class_balanced_weights_are_the_inverse_effective_numbers() -> None:
    """Cui et al., Eq. 2. beta -> 1 is the inverse frequency: 20 and 80 images weigh 4 to 1, 2.5 and 0.625."""
    drawn = np.array([80.0, 20.0])
    np.testing.assert_allclose(class_weights(drawn, 1 - 1e-9, 1.0), [0.625, 2.5], rtol=1e-5)
    found = class_weights(drawn, 0.99, 1.0)
    assert found[1] / found[0] == pytest.approx((1 - 0.99**80) / (1 - 0.99**20))
    assert (found * drawn).sum() / drawn.sum() == pytest.approx(1)
    np.testing.assert_allclose(
        class_weights(np.array([5.0, 0.0, 7.0]), 0, 1.0), [1, 0, 1], err_msg="absent: 0"
    )


def test_a_missed_malignant_lesion_costs_as_many_times_a_false_alarm() -> None:
    plain = losses("cascade", logits(), settings())[0]
    dear = losses("cascade", logits(), settings(malignant_cost=5.0))[0]
    ratio = dear / plain
    torch.testing.assert_close(ratio[1:] / ratio[0], torch.full((3,), 5.0))
    assert not settings(malignant_cost=5.0).prevalence_free


def test_the_cost_moves_the_best_score_by_its_logarithm() -> None:
    """One logit for all: 60 benign and 40 malignant at a cost of 3 are best told by log(3 * 40 / 60)."""
    chosen = settings(malignant_cost=3.0)
    classes = torch.tensor([0] * 60 + [1] * 40)
    drawn = np.tile([60.0, 40, 0, 0], (100, 1))
    terms = torch.from_numpy(loss_terms(drawn, classes.numpy(), "binary", chosen)).float()
    logit = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = image_losses("binary", Logits(logit.expand(100), None), classes, terms, chosen)[0].mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert float(logit.detach()) == pytest.approx(math.log(3 * 40 / 60), abs=1e-3)


def test_wrong_labels_hurt_the_generalised_loss_less() -> None:
    """A line through noisy labels: 35 % of those far on one side are flipped, as a site's coder might do it.

    Five draws; the angle between what is learnt and the truth is smaller by the median.
    """
    angles: dict[str, list[float]] = {"cross_entropy": [], "generalised": []}
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(600, 2, generator=generator) * 3
        clean = (features[:, 0] > 0).long()
        flipped = (torch.rand(600, generator=generator) < 0.35) & (features[:, 0] + features[:, 1] > 2)
        labels = torch.where(flipped, 1 - clean, clean)
        drawn = np.tile([float((labels == 0).sum()), float((labels == 1).sum()), 0, 0], (600, 1))
        for kind, found in angles.items():
            chosen = settings(kind=kind)
            terms = torch.from_numpy(loss_terms(drawn, labels.numpy(), "binary", chosen)).float()
            weight = torch.zeros(2, requires_grad=True)
            optimizer = torch.optim.Adam([weight], lr=0.05)
            for _ in range(400):
                optimizer.zero_grad()
                image_losses("binary", Logits(features @ weight, None), labels, terms, chosen)[
                    0
                ].mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            learnt = weight.detach()
            found.append(abs(math.degrees(math.atan2(float(learnt[1]), float(learnt[0])))))
    assert np.median(angles["generalised"]) < 0.5 * np.median(angles["cross_entropy"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": {"class_balance": 0.99}}, "done twice"),
        ({"trunk": "frozen", "augmentation": {"mixing": "cutmix"}}, "choose mixup"),
        (
            {"privacy": {"noise_multiplier": 1}, "augmentation": {"mixing": "mixup"}},
            "augmentation.mixing would tell",
        ),
        (
            {"privacy": {"noise_multiplier": 1}, "loss": {"malignant_cost": 2}},
            "loss.malignant_cost would tell",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainingSettings.model_validate(given)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"loss": {"focal_gamma": 3}}, "focal_gamma belongs to kind: focal"),
        ({"loss": {"kind": "focal", "generalised_q": 0.5}}, "generalised_q belongs to kind: generalised"),
        ({"augmentation": {"mixing_alpha": 1}}, "mixing_alpha belongs to mixing: mixup or cutmix"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(section: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        TrainingSettings.model_validate(section)
