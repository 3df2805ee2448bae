"""Losses for unlike sites, against numbers by hand, against plain softmaxes, and in their limits."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_cascade import network
from torch import Tensor

from fedderm.label_skew import class_shifts, logit_shifts, loss_terms
from fedderm.losses import image_losses, shifted
from fedderm.model.heads import Logits
from fedderm.training import Stretch, train_locally
from fedderm.training_settings import TrainingSettings
from fedderm.trainset import TrainSet, site_train_set

KINDS = ("none", "logit_adjustment", "fedlc")


def settings(
    kind: str = "logit_adjustment", tau: float = 1.0, heads: str = "both", **more: Any
) -> TrainingSettings:
    return TrainingSettings.model_validate(
        {"label_skew": kind, "label_skew_tau": tau, "label_skew_heads": heads, **more}
    )


def shifts(*drawn: float, scheme: Any = "cascade", **chosen: Any) -> np.ndarray:
    return logit_shifts(np.array([drawn], dtype=np.float64), scheme, settings(**chosen))[0]


def logits(count: int = 7) -> Logits:
    generator = torch.Generator().manual_seed(5)
    return Logits(torch.randn(count, generator=generator), torch.randn(count, 3, generator=generator))


def test_logit_adjustment_adds_tau_times_the_log_frequency() -> None:
    """60 + 20 + 15 + 5 images. Triage: log 40/60 = -0.405465; MEL among malignant: log 20/40 = -0.693147."""
    expected = [math.log(40 / 60), math.log(20 / 40), math.log(15 / 40), math.log(5 / 40)]
    np.testing.assert_allclose(shifts(60, 20, 15, 5), expected)
    np.testing.assert_allclose(shifts(60, 20, 15, 5, tau=0.5), np.multiply(expected, 0.5))
    np.testing.assert_allclose(shifts(60, 20, 15, 5, heads="triage"), [expected[0], 0, 0, 0])
    np.testing.assert_allclose(shifts(600, 200, 150, 50), expected, err_msg="frequencies, not numbers")


def test_fedlcs_margin_is_tau_times_the_difference_of_fourth_roots() -> None:
    """n = 625 and 16: n ** -1/4 is 1/5 and 1/2. The rarer class is put back by 0.3, so must win by 0.3."""
    found = shifts(625, 16, 0, 0, kind="fedlc", heads="triage")
    np.testing.assert_allclose(found, [0.2 - 0.5, 0, 0, 0])
    three = shifts(1000, 625, 256, 81, kind="fedlc", tau=2.0)[1:]
    np.testing.assert_allclose(three, [-2 / 5, -2 / 4, -2 / 3])
    loss = F.cross_entropy(
        torch.tensor([[1.0, 3.0, 2.0]]) + torch.from_numpy(three).float(), torch.tensor([2])
    )
    margin = lambda k: 2.0 * (81**-0.25 - k**-0.25)  # noqa: E731
    by_hand = math.log(1 + math.exp(1.0 - 2.0 + margin(625)) + math.exp(3.0 - 2.0 + margin(256)))
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_site_with_as_many_of_each_class_is_left_as_it_is(kind: str) -> None:
    two = class_shifts(np.array([30.0, 30.0]), settings(kind))
    assert two[0] == two[1]
    plain, drawn = logits(), np.tile([15.0, 5.0, 5.0, 5.0], (7, 1))
    found = shifted(
        "cascade", plain, torch.from_numpy(logit_shifts(drawn, "cascade", settings(kind))).float()
    )
    torch.testing.assert_close(found.triage, plain.triage)
    assert plain.differential is not None
    assert found.differential is not None
    torch.testing.assert_close(F.softmax(found.differential, 1), F.softmax(plain.differential, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["binary", "cascade", "four_class"])
def test_tau_0_is_the_plain_loss_even_where_a_class_is_absent(kind: str, scheme: str) -> None:
    np.testing.assert_array_equal(shifts(90, 10, 0, 0, scheme=scheme, kind=kind, tau=0.0), 0)


@pytest.mark.parametrize(
    ("kind", "tau"), [("logit_adjustment", 1.0), ("logit_adjustment", 0.7), ("fedlc", 1.0)]
)
def test_four_classes_are_adjusted_as_the_one_softmax_that_they_are(kind: str, tau: float) -> None:
    """The factorised loss equals cross-entropy over [benign, MEL, SCC, BCC] + s, with s of all four."""
    chosen = settings(kind, tau)
    benign, malignant = torch.randn(7, generator=torch.Generator().manual_seed(1)), logits().differential
    assert malignant is not None
    classes, drawn = torch.tensor([0, 1, 2, 3, 0, 1, 3]), np.tile([60.0, 25.0, 5.0, 10.0], (7, 1))
    four = Logits(torch.logsumexp(malignant, dim=1) - benign, malignant)
    added = torch.from_numpy(loss_terms(drawn, classes.numpy(), "four_class", chosen)).float()
    _, loss = image_losses("four_class", four, classes, added, chosen)
    plain = torch.cat([benign[:, None], malignant], dim=1)
    expected = F.cross_entropy(plain + torch.from_numpy(class_shifts(drawn, chosen)).float(), classes)
    torch.testing.assert_close(loss.mean(), expected)


def test_the_default_is_the_triage_heads_alone() -> None:
    default = TrainingSettings()
    assert default.prevalence_free
    found = logit_shifts(np.array([[60.0, 25.0, 5.0, 10.0]]), "cascade", default)
    np.testing.assert_allclose(found, [[math.log(40 / 60), 0, 0, 0]])
    assert not settings(tau=0.5).prevalence_free
    assert not settings("fedlc").prevalence_free


@pytest.mark.parametrize("kind", ["logit_adjustment", "fedlc"])
def test_a_class_that_a_site_lacks_is_neither_raised_nor_lowered_by_it(kind: str) -> None:
    """Without MEL images the first row of the differentiation head gets no gradient, the others do."""
    chosen = settings(kind)
    assert shifts(50, 0, 30, 20, kind=kind)[1] == -math.inf
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    weight = torch.zeros(3, 4, requires_grad=True)
    classes = torch.tensor([0, 2, 3, 2, 0, 3])
    drawn = np.tile([50.0, 0, 30, 20], (6, 1))
    added = torch.from_numpy(loss_terms(drawn, classes.numpy(), "cascade", chosen)).float()
    _, loss = image_losses("cascade", Logits(torch.zeros(6), features @ weight.T), classes, added, chosen)
    loss.mean().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss).all()
    gradient: Tensor | None = weight.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert (gradient[0] == 0).all()
    assert (gradient[1:].abs().sum(dim=1) > 0).all()


def site(mel: int, scc: int, bcc: int, benign: int = 40) -> TrainSet:
    classes = np.repeat([0, 1, 2, 3], [benign, mel, scc, bcc])
    pixels = np.random.default_rng(0).integers(0, 256, (len(classes), 32, 32, 3), dtype=np.uint8)
    return site_train_set(pixels, np.arange(len(classes)), classes, TrainingSettings(oversampling=1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trains_where_classes_are_absent(kind: str) -> None:
    chosen = settings(kind, batch_size=16, learning_rate=0.001, local_steps=3, local_epochs=None)
    result = train_locally(network(), site(12, 0, 0), chosen, Stretch(1, 1), (7, 1, 1))
    assert math.isfinite(result.loss)


def test_it_learns_what_an_image_says_and_not_the_sites_prevalence() -> None:
    """Images without information: the plain loss learns log(1/4), the adjusted one 0; batches leave noise."""
    learnt = {}
    for kind in ("none", "logit_adjustment"):
        model = network("binary")
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.triage.weight.data.zero_()
        model.triage.bias.data.zero_()
        model.triage.bias.requires_grad_(True)
        chosen = settings(
            kind,
            optimizer="sgd",
            momentum=0.0,
            learning_rate=1.0,
            head_factor=1,
            batch_size=50,
            local_steps=60,
            local_epochs=None,
        )
        train_locally(model, site(10, 0, 0), chosen, Stretch(1, 1), (7, 1, 1))
        learnt[kind] = float(model.triage.bias.detach())
    assert learnt["none"] == pytest.approx(math.log(10 / 40), abs=0.15)
    assert learnt["logit_adjustment"] == pytest.approx(0.0, abs=0.15)


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        class_shifts(np.array([3.0, -1.0]), settings())
