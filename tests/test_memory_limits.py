"""Out of memory: batches are halved, results stay, and what fitted is remembered.

Memory gives out where a hook in the network raises what torch raises, above so many images: on a GPU
tests/test_gpu.py takes the memory away for real.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from test_cascade import network
from test_training import SEED, data, settings
from torch import nn

from fedderm.feature_moments import feature_moments
from fedderm.inference import extract_features, score_images
from fedderm.memory_limits import MemoryLimit, fits, in_parts
from fedderm.model.cascade import Cascade
from fedderm.model.dropout import BatchDropout, PackedDropout
from fedderm.model.heads import Heads
from fedderm.settings import ModelSettings
from fedderm.training import Stretch, TrainResult, initial_loss, train_locally
from fedderm.trainset import TrainSet, site_train_set
from strategies.site_side import LocalObjective

AUGMENTED = {"augmentation": {"geometry": 1, "colour": 1}}


@contextmanager
def room_for(images: int, model: nn.Module, error: str = "CUDA out of memory.") -> Iterator[list[int]]:
    """Let ``model`` run out of memory above so many images, late in its pass; yield the sizes it was asked.

    The triage head comes after the trunk and after dropout, whose draws have then been made.
    """
    asked: list[int] = []

    def refuse(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        asked.append(len(inputs[0]))
        if len(inputs[0]) > images:
            raise torch.OutOfMemoryError(error)

    handle = model.triage.register_forward_pre_hook(refuse)
    try:
        yield asked
    finally:
        handle.remove()


def trained(model: Heads, images: TrainSet, mu: float = 0.0, **changes: Any) -> TrainResult:
    chosen = settings(**{**AUGMENTED, **changes})
    return train_locally(model, images, chosen, Stretch(1, 2), SEED, LocalObjective(mu=mu))


def assert_same_weights(one: nn.Module, other: nn.Module, atol: float = 1e-6) -> None:
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=atol, msg=name)


SGD = {"optimizer": "sgd", "learning_rate": 0.01}
ADAMW = {"learning_rate": 0.0001}
"""Adam divides a gradient by its own size: where that is all rounding, weights differ by a thousandth of a
rate."""


@pytest.mark.parametrize(
    ("scheme", "trunk", "mu", "changes"),
    [
        ("cascade", "shared", 0.0, SGD),
        ("cascade", "separate", 0.1, SGD),
        ("four_class", "shared", 0.1, ADAMW),
        ("cascade", "shared", 0.1, ADAMW),
        ("binary", "shared", 0.0, {**ADAMW, "batch_size": 7}),
    ],
)
def test_halved_batches_train_to_the_same_weights(
    scheme: str, trunk: str, mu: float, changes: dict[str, Any]
) -> None:
    """Eight images (or seven, whose halves are unlike) where memory holds three: with dropout, clipping and
    augmentation, whose draws are the whole batch's.
    """
    whole, halved = (network(scheme, trunk, dropout=0.3) for _ in range(2))
    expected = trained(whole, data(), mu, **changes)
    with room_for(3, halved):
        found = trained(halved, data(), mu, **changes)
    assert (expected.micro_batch, found.micro_batch) == (changes.get("batch_size", 8), 2)
    assert found.loss == pytest.approx(expected.loss, abs=1e-6)
    assert found.triage_loss == pytest.approx(expected.triage_loss, abs=1e-6)
    assert_same_weights(halved, whole)


def test_heads_on_features_are_halved_alike() -> None:
    """With the frozen trunk's own dropout, which packs its draws."""
    rng = np.random.default_rng(5)
    features = rng.standard_normal((24, 4, 1, 20), dtype=np.float32)
    images = site_train_set(features, np.arange(24), np.arange(24) % 4, settings())
    models = []
    for room in (100, 3):
        torch.manual_seed(0)
        model = Heads(ModelSettings(dropout=0.4), 20)
        with room_for(room, model):
            trained(model, images, trunk="frozen")
        models.append(model)
    assert_same_weights(models[1], models[0])


def test_without_the_whole_batchs_draws_weights_would_differ() -> None:
    """The same training with another seed's dropout is far from 1e-6: the equality above means something."""
    one, other = (network(dropout=0.3) for _ in range(2))
    trained(one, data())
    torch.manual_seed(1)
    chosen = settings(**AUGMENTED)
    train_locally(other, data(), chosen, Stretch(1, 2), (7, 1, 2))
    with pytest.raises(AssertionError):
        assert_same_weights(other, one, atol=1e-4)


@pytest.mark.parametrize("kind", [BatchDropout, PackedDropout])
def test_what_is_dropped_depends_on_the_shape_alone(kind: type[BatchDropout]) -> None:
    """However values lie in memory, whole or in parts: a transformer's class token lies scattered."""
    dropout, kept = kind(0.3), []
    scattered = torch.ones(5, 8).t()
    for values in (scattered, scattered.contiguous()):
        torch.manual_seed(3)
        kept.append(dropout(values))
    torch.manual_seed(3)
    parts = []
    for part in (slice(0, 4), slice(4, 8)):
        dropout.take_part(part, 8)
        parts.append(dropout(scattered[part]))
    dropout.take_whole()
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(torch.cat(parts), kept[0])
    assert (kept[0] == 0).any()


def test_what_fitted_is_remembered_in_later_steps_and_rounds() -> None:
    model = network()
    with room_for(3, model) as asked:
        trained(model, data())
        # Three steps of eight: 8, 4 and 2 are tried once.
        assert asked == [8, 4, *[2] * 12]
        asked.clear()
        trained(model, data())
        assert asked == [2] * 12


def test_the_limit_of_one_model_is_not_anothers() -> None:
    first, second = network(), network()
    with room_for(3, first):
        trained(first, data())
    assert trained(second, data()).micro_batch == 8
    with room_for(100, first) as asked:
        trained(first, data(), precision="bfloat16")
    assert asked[0] == 8


def test_nothing_of_a_failed_pass_stays_in_memory() -> None:
    """The tensors of the pass that did not fit are gone before a smaller one is tried."""
    model = network()
    alive: list[int] = []
    images = 8

    def count(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        large = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and one.requires_grad]
        alive.append(sum(1 for one in large if one.ndim == 4 and len(one) == images and one.grad_fn))
        if len(inputs[0]) == images:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.trunks.register_forward_pre_hook(count)
    handle = model.trunks[0].layer4.register_forward_pre_hook(count)
    trained(model, data(), local_steps=1)
    handle.remove()
    assert alive[0] > 0
    assert alive[1] == 0


def test_one_image_too_many_is_a_sentence() -> None:
    model = network()
    with (
        room_for(0, model),
        pytest.raises(
            ValueError, match=r"does not hold one image at a time \(tried 8, 4, 2, 1\); lower model"
        ),
    ):
        trained(model, data())


def test_a_batchs_own_statistics_cannot_be_had_from_parts() -> None:
    model = network()
    told = r"does not hold a batch of 8 images, and training\.norm_statistics: local wants .* lower training"
    with room_for(4, model), pytest.raises(ValueError, match=told):
        trained(model, data(), norm_statistics="local")


@pytest.mark.parametrize("library", ["cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory"])
def test_errors_of_cudas_libraries_count_as_well(library: str) -> None:
    def full() -> None:
        raise RuntimeError(library)

    assert not fits(full)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        fits(broken)


def test_parts_are_as_equal_as_can_be_and_cover_all() -> None:
    """Of at most 5: 12 images in three fours, 13 in 5, 5 and 3."""
    limit = MemoryLimit(nn.Linear(1, 1), "training", 32, "auto")
    assert limit.parts(12) == [slice(0, 12)]
    limit.halve(10)
    assert limit.parts(12) == [slice(0, 4), slice(4, 8), slice(8, 12)]
    assert limit.parts(13) == [slice(0, 5), slice(5, 10), slice(10, 13)]
    assert limit.parts(3) == [slice(0, 3)]


def test_work_in_parts_comes_in_order_and_each_image_once() -> None:
    limit, done = MemoryLimit(nn.Linear(1, 1), "scoring", 32, "auto"), []

    def work(part: slice) -> None:
        if part.stop - part.start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        done.append((part.start, part.stop))

    in_parts(limit, 11, 8, work)
    assert done == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 11)]
    in_parts(limit, 0, 8, work)


def test_scores_and_features_do_not_depend_on_what_fits() -> None:
    model, images = network(trunk="separate"), data().images[0]
    rows = np.arange(24)
    expected, features = score_images(model, images, rows, 2), extract_features(model, images)
    with room_for(3, model) as asked:
        found = score_images(model, images, rows, 2)
    assert asked[0] > 3
    assert max(asked[6:]) <= 3
    assert (found.patterns, expected.patterns) == (None, None)
    for one, other in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)
    # The features' pass does not reach the head; the trunk itself refuses.
    with _trunk_room(model, 5):
        for one, other in zip(extract_features(model, images), features, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)


@contextmanager
def _trunk_room(model: Cascade, images: int) -> Iterator[None]:
    def refuse(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > images:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = model.trunks[-1].register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


def test_initial_loss_and_moments_do_not_depend_on_what_fits() -> None:
    model = network()
    loss, moments = initial_loss(model, data(), settings()), feature_moments(model, data(), "auto")
    with _trunk_room(model, 3):
        assert initial_loss(model, data(), settings()) == pytest.approx(loss, rel=1e-6)
        found = feature_moments(model, data(), "auto")
    for name, one in moments.items():
        np.testing.assert_allclose(found[name], one, rtol=1e-4, atol=1e-4)
