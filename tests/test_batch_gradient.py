"""Two networks of a cascade are trained one after the other: the same gradient in half the activations."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from test_memory_limits import assert_same_weights, data, settings, trained
from torch import Tensor, nn

from fedderm.model.cascade import Cascade
from fedderm.model.heads import Heads
from fedderm.model.stages import LastStages
from fedderm.settings import ModelSettings


class AtOnce(Cascade):
    """The cascade whose two networks go forward together and then back together."""

    in_stages = Heads.in_stages


def network(kind: type[Cascade] = Cascade, **changes: Any) -> Cascade:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    wanted = {"backbone": "test_resnet", "pretrained": "none", "image_size": 32, "trunk": "separate"}
    model = kind(ModelSettings.model_validate({**wanted, **changes}))
    with torch.no_grad():
        for parameter in model.head_parameters():
            parameter.normal_(0, 0.5)
    return model


@pytest.mark.parametrize(
    ("model", "training"),
    [
        ({}, {}),
        ({"dropout": 0.3}, {"precision": "bfloat16"}),
        ({"patterns": True, "diagnoses": "seven"}, {"augmentation": {"mixing": "mixup"}}),
        ({"dropout": 0.3, "metadata": ["age", "sex"]}, {"loss": {"kind": "focal"}}),
    ],
)
def test_the_weights_and_losses_are_those_of_both_at_once(
    model: dict[str, Any], training: dict[str, Any]
) -> None:
    """To the last bit: triage and patterns teach the first network, the differential the second."""
    one, other = network(**model), network(AtOnce, **model)
    start = network(**model).state_dict()
    assert trained(one, data(), **training) == trained(other, data(), **training)
    assert_same_weights(one, other, atol=0.0)
    assert all(
        not torch.equal(value, start[name]) for name, value in one.named_parameters() if "trunks" in name
    )


@contextmanager
def most_kept() -> Iterator[list[int]]:
    """Yield the bytes that autograd keeps for the way back, and the most of them at a time."""
    now_and_most = [0, 0]

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def let_go(size: int) -> None:
        now_and_most[0] -= size

    def keep(tensor: Tensor) -> Kept:
        kept, size = Kept(tensor), tensor.nbytes
        weakref.finalize(kept, let_go, size)
        now_and_most[0] += size
        now_and_most[1] = max(now_and_most)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        yield now_and_most


def whole(kind: type[Cascade]) -> Heads:
    return network(kind)


def last_stage(kind: type[Cascade]) -> Heads:
    """Return what is trained of a cascade whose early stages are frozen."""
    model = network(kind)
    settings_of_model = ModelSettings.model_validate({"backbone": "test_resnet", "trunk": "separate"})
    return LastStages(model, settings_of_model, settings(trunk="last_stages", last_stages=1))


@pytest.mark.parametrize("built", [whole, last_stage])
def test_the_activations_of_one_network_are_held_at_a_time(built: Callable[[type[Cascade]], Heads]) -> None:
    found, models = [], []
    for kind in (AtOnce, Cascade):
        gc.collect()
        models.append(built(kind))
        with most_kept() as kept:
            trained(models[-1], data(), local_steps=1)
        found.append(kept[1])
    both, one = found
    assert 0.45 < one / both < 0.55
    assert_same_weights(*models, atol=0.0)


def test_where_memory_gives_out_in_the_second_network_the_first_ones_gradient_is_not_added_twice() -> None:
    """With dropout before both heads, whose draws are the whole batch's."""
    at_once, halved = network(dropout=0.3), network(dropout=0.3)

    def refuse(_: nn.Module, inputs: tuple[Tensor]) -> None:
        if len(inputs[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    expected = trained(at_once, data(), optimizer="sgd", learning_rate=0.01)
    halved.trunks[1].register_forward_pre_hook(refuse)
    found = trained(halved, data(), optimizer="sgd", learning_rate=0.01)
    assert (expected.micro_batch, found.micro_batch) == (8, 2)
    assert found.loss == pytest.approx(expected.loss, abs=1e-6)
    assert_same_weights(halved, at_once)


def test_where_memory_gives_out_on_the_way_back_the_worker_is_as_it_was() -> None:
    """In bfloat16, through the second network: what comes after must not find autocast switched on."""

    def refuse(gradient: Tensor) -> None:
        if len(gradient) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    found = []
    for kind in (AtOnce, Cascade):
        model = network(kind, dropout=0.3)
        model.trunks[1].register_forward_hook(lambda _, __, features: features.register_hook(refuse) and None)
        result = trained(model, data(), precision="bfloat16")
        assert not torch.is_autocast_enabled("cpu")
        assert result.micro_batch == 2
        found.append((model, result))
    (one, expected), (other, result) = found
    assert result == expected
    assert_same_weights(one, other, atol=0.0)
