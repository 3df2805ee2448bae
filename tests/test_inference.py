"""Scores: exact input, batches that do not show, views that are averaged."""

import numpy as np
import pytest
import torch
from test_cascade import network

from fedderm import inference
from fedderm.batches import to_input
from fedderm.inference import batches, extract_features, images_at_once, predict_logits, score_images


def pixels(count: int = 21, side: int = 32) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_bytes_become_their_256ths() -> None:
    ramp = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
    tensor = to_input(ramp, torch.device("cpu"))
    assert (tensor.shape, tensor.dtype) == ((4, 3, 8, 8), torch.float32)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(tensor.permute(0, 2, 3, 1).numpy(), (ramp / np.float32(255)))


@pytest.mark.parametrize("batch", [1, 5, 20, 21, 64])
def test_the_batch_size_does_not_show(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    rows = np.arange(21)
    monkeypatch.setattr(inference, "CPU_BATCH", batch)
    triage, differential = predict_logits(model, pixels(), rows)
    with torch.inference_mode():
        whole = model(to_input(pixels(), torch.device("cpu")))
    np.testing.assert_allclose(triage, whole.triage.numpy(), rtol=0, atol=2e-5)
    np.testing.assert_allclose(differential, whole.differential.numpy(), rtol=0, atol=2e-5)


def test_batches_shrink_as_images_grow_and_lose_none() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for side, on_gpu, on_cpu in ((64, 256, 16), (224, 256, 16), (448, 64, 16), (1024, 12, 3)):
        assert (images_at_once(side, gpu), images_at_once(side, cpu)) == (on_gpu, on_cpu)
    assert images_at_once(1, cpu) > 1e6
    rows = np.arange(1000)
    parts = list(batches(rows, 64))
    assert {len(part) for part in parts[:-1]} == {64}
    np.testing.assert_array_equal(np.concatenate(parts), rows)
    assert list(batches(rows[:0], 112)) == []


def test_rows_choose_images_in_their_order() -> None:
    model = network()
    all_of_them, _ = predict_logits(model, pixels(), np.arange(21))
    some, _ = predict_logits(model, pixels(), np.array([7, 2, 20]))
    np.testing.assert_allclose(some, all_of_them[[7, 2, 20]], atol=2e-5)


@pytest.mark.parametrize(("views", "flips"), [(1, [()]), (2, [(), (2,)]), (4, [(), (2,), (1,), (1, 2)])])
def test_views_average_the_logits_of_mirror_images(views: int, flips: list[tuple[int, ...]]) -> None:
    model = network()
    rows = np.arange(21)
    single = [predict_logits(model, np.flip(pixels(), axes).copy(), rows) for axes in flips]
    triage, differential = predict_logits(model, pixels(), rows, views)
    np.testing.assert_allclose(triage, np.mean([one for one, _ in single], axis=0), atol=2e-5)
    np.testing.assert_allclose(differential, np.mean([two for _, two in single], axis=0), atol=2e-5)


def test_four_views_do_not_see_which_way_up_an_image_is() -> None:
    model = network()
    turned = pixels()[:, ::-1, ::-1].copy()
    upright, _ = predict_logits(model, pixels(), np.arange(21), 4)
    other, _ = predict_logits(model, turned, np.arange(21), 4)
    np.testing.assert_allclose(upright, other, atol=2e-5)


def test_scoring_leaves_dropout_out_and_the_model_as_it_was() -> None:
    model = network(dropout=0.9)
    model.train()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    first, _ = predict_logits(model, pixels(), np.arange(21))
    second, _ = predict_logits(model, pixels(), np.arange(21))
    np.testing.assert_array_equal(first, second)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_binary_has_no_differential_and_nothing_gives_nothing() -> None:
    triage, differential = predict_logits(network("binary"), pixels(), np.arange(21))
    assert triage.shape == (21,)
    assert differential is None
    nobody, none = predict_logits(network(), pixels(), np.arange(0))
    assert (nobody.shape, none.shape) == ((0,), (0, 3))


def test_features_are_what_the_heads_see() -> None:
    model = network(trunk="separate")
    first, last = extract_features(model, pixels())
    triage, differential = predict_logits(model, pixels(), np.arange(21))
    weights = {name: one.double().numpy() for name, one in model.state_dict().items()}
    np.testing.assert_allclose(
        first @ weights["triage.weight"][0] + weights["triage.bias"], triage, rtol=0, atol=2e-5
    )
    np.testing.assert_allclose(
        last @ weights["differentiation.weight"].T + weights["differentiation.bias"],
        differential,
        rtol=0,
        atol=2e-5,
    )


def test_bfloat16_scores_agree_with_float32() -> None:
    exact, _ = predict_logits(network(), pixels(), np.arange(21), precision="float32")
    rounded, _ = predict_logits(network(), pixels(), np.arange(21), precision="bfloat16")
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, atol=0.1 * float(exact.std()))


@pytest.mark.parametrize("scheme", ["binary", "four_class", "cascade"])
def test_one_pass_gives_scores_and_the_features_behind_them(scheme: str) -> None:
    model, rows = network(scheme), np.array([7, 2, 20])
    found = score_images(model, pixels(), rows)
    first, _ = extract_features(model, pixels()[rows])
    np.testing.assert_allclose(found.features, first, rtol=0, atol=2e-5)
    triage, differential = predict_logits(model, pixels(), rows)
    np.testing.assert_array_equal(found.triage, triage)
    assert (found.differential is None) == (differential is None) == (scheme == "binary")


def test_features_are_means_over_views_and_batches_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = network(), np.arange(21)
    upright = score_images(model, pixels(), rows).features
    mirrored = score_images(model, np.flip(pixels(), 2).copy(), rows).features
    monkeypatch.setattr(inference, "CPU_BATCH", 5)
    both = score_images(model, pixels(), rows, views=2).features
    np.testing.assert_allclose(both, (upright + mirrored) / 2, rtol=0, atol=2e-5)
    assert not np.allclose(upright, mirrored, atol=1e-3)
    assert score_images(model, pixels(), rows[:0]).features.shape == (0, upright.shape[1])


def test_nobody_listens_at_the_head_after_scoring() -> None:
    model = network()
    score_images(model, pixels(), np.arange(3))
    assert not model.triage._forward_pre_hooks
