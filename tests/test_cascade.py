"""The three schemes as one network: their logits, and which loss moves which parameters."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedderm.losses import image_losses
from fedderm.model.cascade import Cascade
from fedderm.model.heads import Logits
from fedderm.model.state import load_arrays, to_arrays
from fedderm.settings import ModelSettings
from fedderm.training_settings import TrainingSettings


def network(scheme: str = "cascade", trunk: str = "shared", dropout: float = 0.0, seed: int = 0) -> Cascade:
    """Return a small untrained network whose heads are not zero, for one thread."""
    torch.set_num_threads(1)  # as a site trains; with more, small sums wait for threads most of the time
    torch.manual_seed(seed)
    model = Cascade(
        ModelSettings.model_validate(
            {
                "scheme": scheme,
                "trunk": trunk,
                "backbone": "test_resnet",
                "pretrained": "none",
                "image_size": 32,
                "dropout": dropout,
            }
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.head_parameters():
            parameter.normal_(0, 0.5)
    return model


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def loss(model: Cascade, logits: Logits, classes: Tensor, log_odds: Tensor | None = None) -> Tensor:
    terms = torch.tensor([0.0, 0, 0, 0, 1, 1]).repeat(len(classes), 1)
    if log_odds is not None:
        terms[:, 0] = log_odds
    return image_losses(model.scheme, logits, classes, terms, TrainingSettings())[1].mean()


def moved(parameters: list[nn.Parameter]) -> bool:
    return any(one.grad is not None and bool(one.grad.abs().sum() > 0) for one in parameters)


def four_way(model: Cascade, batch: Tensor) -> Tensor:
    """Return the logits (B, 4) of the plain softmax that ``four_class`` stands for: benign, MEL, SCC, BCC."""
    first, last = model.features(batch)
    return torch.cat([-model.triage(first), model.differentiation(last)], dim=1)


def test_four_class_is_a_plain_softmax_over_four_classes() -> None:
    model = network("four_class")
    logits = model(images())
    assert logits.differential is not None
    malignant = torch.sigmoid(logits.triage)[:, None]
    factorised = torch.cat([1 - malignant, malignant * logits.differential.softmax(1)], dim=1)
    torch.testing.assert_close(factorised, four_way(model, images()).softmax(1))


def test_four_class_loss_is_the_four_way_cross_entropy() -> None:
    model = network("four_class")
    classes = torch.tensor([0, 1, 2, 3, 0, 0])
    expected = nn.functional.cross_entropy(four_way(model, images()), classes)
    torch.testing.assert_close(loss(model, model(images()), classes), expected)


def test_binary_has_no_differential_and_no_second_head() -> None:
    model = network("binary")
    assert model(images()).differential is None
    assert not hasattr(model, "differentiation")
    assert [tuple(one.shape) for one in model.head_parameters()] == [(1, 96), (1,)]


def test_untrained_heads_find_all_classes_equally_likely() -> None:
    settings = {"backbone": "test_resnet", "pretrained": "none", "image_size": 32}
    cascade = Cascade(ModelSettings(**settings)).eval()(images())
    torch.testing.assert_close(cascade.triage, torch.zeros(6))
    four = Cascade(ModelSettings(**settings, scheme="four_class")).eval()(images())
    torch.testing.assert_close(torch.sigmoid(four.triage), torch.full((6,), 0.75))
    torch.testing.assert_close(four.differential.softmax(1), torch.full((6, 3), 1 / 3))


def test_separate_trunks_are_separate() -> None:
    model = network(trunk="separate")
    before = model(images())
    with torch.no_grad():
        next(model.trunks[1].parameters()).add_(0.3)
    after = model(images())
    torch.testing.assert_close(after.triage, before.triage, rtol=0, atol=0)
    assert not torch.allclose(after.differential, before.differential)
    assert len(model.trunk_parameters()) == 2 * len(network().trunk_parameters())


def test_separate_trunks_start_unlike_each_other_where_nothing_is_pretrained() -> None:
    first, second = network(trunk="separate").trunks
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


@pytest.mark.parametrize("scheme", ["cascade", "four_class"])
def test_the_differentiation_head_learns_from_malignant_lesions_only(scheme: str) -> None:
    model = network(scheme)
    _, differential, *_ = model(images())
    per_image = torch.autograd.grad(
        loss(model, Logits(torch.zeros(6), differential), torch.tensor([0, 0, 1, 2, 3, 0])), differential
    )[0]
    assert (per_image.abs().sum(dim=1) > 0).tolist() == [False, False, True, True, True, False]


def test_a_benign_batch_moves_the_triage_alone() -> None:
    model = network(trunk="separate")
    loss(model, model(images()), torch.zeros(6, dtype=torch.long)).backward()
    assert moved(list(model.triage.parameters()))
    assert moved(list(model.trunks[0].parameters()))
    assert not moved(list(model.differentiation.parameters()))
    assert not moved(list(model.trunks[1].parameters()))


def test_with_separate_trunks_triage_does_not_teach_the_second() -> None:
    model = network(trunk="separate")
    model(images()).triage.sum().backward()
    assert not moved(list(model.trunks[1].parameters()))
    model.zero_grad()
    model(images()).differential.sum().backward()
    assert not moved([*model.trunks[0].parameters(), *model.triage.parameters()])
    assert moved(list(model.trunks[1].parameters()))


def test_log_odds_shift_the_triage_logit_in_the_loss() -> None:
    """A site that draws 4 malignant to 1 benign: the loss sees logit + log 4, the network's logit stays."""
    model = network("binary")
    logits, classes = model(images()), torch.tensor([0, 1, 1, 0, 1, 1])
    shifted = loss(model, logits, classes, torch.full((6,), float(np.log(4))))
    p = torch.sigmoid(logits.triage + np.log(4))
    expected = -torch.where(classes > 0, p.log(), (1 - p).log()).mean()
    torch.testing.assert_close(shifted, expected)


def test_heads_and_trunks_share_out_all_parameters() -> None:
    for model in (network("binary"), network("four_class"), network(trunk="separate")):
        ids = [id(one) for one in (*model.trunk_parameters(), *model.head_parameters())]
        assert sorted(ids) == sorted(id(one) for one in model.parameters())


def test_logits_are_float32_under_autocast() -> None:
    """In bfloat16 most of 400 logits between 1 and 2 would coincide: it has 128 numbers there."""
    model = network()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        triage, differential, *_ = model(images(200))
    assert (triage.dtype, differential.dtype) == (torch.float32, torch.float32)
    assert len(torch.unique(triage)) > 190


def test_arrays_go_there_and_back_with_their_counters() -> None:
    source, target = network(seed=1), network(seed=2)
    counters = [name for name, one in source.state_dict().items() if one.dtype == torch.int64]
    source.state_dict()[counters[0]].fill_(7)
    arrays = to_arrays(source)
    assert arrays[counters[0]].shape == ()
    assert arrays[counters[0]] == 7
    assert arrays[counters[0]].dtype == np.int64
    for one in arrays.values():
        one.setflags(write=False)  # as they come out of a message
    load_arrays(target, arrays)
    for name, one in to_arrays(target).items():
        np.testing.assert_array_equal(one, arrays[name], strict=True)


def test_arrays_are_copies_in_plain_order() -> None:
    model = network().to(memory_format=torch.channels_last)
    arrays = to_arrays(model)
    before = copy.deepcopy(arrays)
    assert all(one.flags["C_CONTIGUOUS"] for one in arrays.values())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    for name, one in arrays.items():
        np.testing.assert_array_equal(one, before[name])


def test_arrays_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights do not fit the model of the config: .*differentiation"):
        load_arrays(network(), to_arrays(network("binary")))
    wrong = to_arrays(network())
    wrong["triage.weight"] = np.zeros((1, 5), np.float32)
    with pytest.raises(ValueError, match=r"triage\.weight is \[1, 5\] where it has \[1, 96\]"):
        load_arrays(network(), wrong)
    wrong = {**to_arrays(network(seed=1)), "heads.unheard": np.zeros(1, np.float32)}
    target = network(seed=2)
    before = to_arrays(target)
    with pytest.raises(ValueError, match=r"it has no heads\.unheard"):
        load_arrays(target, wrong)
    for name, one in to_arrays(target).items():
        np.testing.assert_array_equal(one, before[name], err_msg="nothing is copied of what does not fit")
