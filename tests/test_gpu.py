"""On a GPU: the same draws and nearly the same numbers as on a CPU, in bfloat16, channels last."""

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from test_cascade import network
from test_training import data, settings

from fedderm import config
from fedderm.augment import augment, draw
from fedderm.batches import to_input, training_batches
from fedderm.devices import autocast, pick_device
from fedderm.gpu_sharing import measure, share
from fedderm.inference import predict_logits, score_images
from fedderm.model.cascade import Cascade
from fedderm.model.dropout import BatchDropout
from fedderm.model.state import load_arrays, to_arrays
from fedderm.settings import Experiment, ModelSettings
from fedderm.training import Stretch, train_locally
from fedderm.training_settings import AugmentationSettings
from fedderm.trainset import TrainSet, site_train_set
from strategies.site_side import LocalObjective

TETHER = LocalObjective(mu=0.1)
AUGMENTED = {"augmentation": {"geometry": 1, "colour": 1}}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device"),
]

CPU = torch.device("cpu")


def on_gpu(model: Cascade) -> Cascade:
    return model.to(pick_device(0.5)).to(memory_format=torch.channels_last)


def test_a_fraction_of_a_gpu_is_a_gpu() -> None:
    assert pick_device(0.25).type == "cuda"
    assert pick_device(0).type == "cpu"


def test_bytes_become_the_same_floats() -> None:
    pixels = data().images[0]
    found = to_input(pixels, pick_device(1))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.cpu(), to_input(pixels, CPU), rtol=0, atol=1e-7)


def test_augmentation_draws_the_same_as_on_a_cpu() -> None:
    images = torch.rand(8, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    drawn = draw(8, AugmentationSettings(), torch.Generator().manual_seed(3))
    here, there = (
        augment(images.to(device), drawn.to(device), AugmentationSettings())
        for device in (CPU, pick_device(1))
    )
    # A sampling point on the edge of a pixel may fall to its other side: compare the bulk, too.
    difference = (here - there.cpu()).abs()
    assert float(difference.mean()) < 1e-4
    assert float(difference.max()) < 0.05


def test_float32_scores_agree_with_a_cpus() -> None:
    pixels, rows = data().images[0], np.arange(24)
    here = predict_logits(network(), pixels, rows, 4, "float32")
    there = predict_logits(on_gpu(network()), pixels, rows, 4, "float32")
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=0.02 * float(one.std()))


def test_auto_is_bfloat16_and_orders_images_much_the_same() -> None:
    with autocast(pick_device(1), "auto"):
        assert torch.get_autocast_dtype("cuda") == torch.bfloat16
        assert torch.is_autocast_enabled("cuda")
    pixels, rows = data().images[0], np.arange(24)
    exact, _ = predict_logits(on_gpu(network()), pixels, rows, precision="float32")
    rounded, _ = predict_logits(on_gpu(network()), pixels, rows, precision="auto")
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(exact, rounded, rtol=0, atol=0.1 * float(exact.std()))


def test_logits_are_float32_under_autocast() -> None:
    model = on_gpu(network())
    with autocast(pick_device(1), "auto"), torch.inference_mode():
        triage, differential, *_ = model(to_input(data().images[0], pick_device(1)))
    assert (triage.dtype, differential.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_it_trains_as_far_as_a_cpu_does(precision: str) -> None:
    start = [one.detach().clone() for one in network().parameters()]

    def way(model: Cascade) -> torch.Tensor:
        result = train_locally(
            model, data(), settings(precision=precision, local_epochs=2), Stretch(1, 1), (1, 2)
        )
        assert np.isfinite(result.loss)
        parameters = [one.detach().cpu() for one in model.parameters()]
        return torch.cat([(a - b).flatten() for a, b in zip(parameters, start, strict=True)])

    here, there = way(network()), way(on_gpu(network()))
    assert float(there.norm()) == pytest.approx(float(here.norm()), rel=0.2)
    assert float(torch.nn.functional.cosine_similarity(here, there, dim=0)) > 0.8


def test_arrays_go_to_the_gpu_and_back() -> None:
    arrays = to_arrays(network(seed=1))
    model = on_gpu(network(seed=2))
    load_arrays(model, arrays)
    for name, one in to_arrays(model).items():
        np.testing.assert_array_equal(one, arrays[name], strict=True)
        assert one.flags["C_CONTIGUOUS"]


def test_a_packaged_backbone_trains_in_bfloat16() -> None:
    model = on_gpu(Cascade(ModelSettings(image_size=64)))
    before = to_arrays(model)
    result = train_locally(model, data(), settings(local_epochs=3), Stretch(1, 1), (1, 2), TETHER)
    after = to_arrays(model)
    assert np.isfinite(result.loss)
    assert all(np.isfinite(one).all() for one in after.values())
    assert not np.array_equal(before["triage.weight"], after["triage.weight"])


def test_batches_that_are_copied_beside_the_computing_hold_what_a_cpus_hold() -> None:
    chosen = [np.arange(8), np.arange(8, 16), np.arange(4, 12), np.arange(24)[::3]]
    augmentation = AugmentationSettings()

    def batches(device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(5)
        with training_batches(data(), chosen, augmentation, generator, device) as made:
            return [(one.images, one.drawn) for one in made if one.drawn is not None]

    here, there = batches(CPU), batches(pick_device(1))
    assert len(here) == len(there) == len(chosen)
    for one, other in zip(here, there, strict=True):
        for expected, found in zip(one, other, strict=True):
            assert found.is_cuda
            assert torch.equal(found.cpu(), expected)


def test_a_step_does_not_wait_for_the_gpu() -> None:
    """Eight steps have the CPU wait for the GPU as often as two: before the first and after the last."""
    model = on_gpu(network(dropout=0.2))
    train_locally(model, data(), settings(local_steps=2), Stretch(1, 1), (1, 2), TETHER)

    def waits(steps: int) -> list[str]:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                train_locally(
                    model, data(), settings(local_steps=steps, **AUGMENTED), Stretch(1, 1), (1, 2), TETHER
                )
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return [str(one.message) for one in caught if "synchroniz" in str(one.message)]

    few, many = waits(2), waits(8)
    assert few
    assert len(many) == len(few), many


@contextlib.contextmanager
def memory(size: int) -> Iterator[None]:
    """Leave this process ``size`` bytes of the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def larger_images(count: int = 64, side: int = 128) -> TrainSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return site_train_set(pixels, np.arange(count), np.arange(count) % 4, settings())


def lite0() -> Cascade:
    torch.manual_seed(1)
    return on_gpu(Cascade(ModelSettings(pretrained="none", image_size=128, dropout=0.3)))


def test_a_batch_that_memory_does_not_hold_trains_to_the_same_weights() -> None:
    """With dropout and augmentation, in float32; two trainings alike differ by the GPU's own rounding."""
    chosen = settings(
        precision="float32", batch_size=64, local_steps=3, optimizer="sgd", learning_rate=0.01, **AUGMENTED
    )

    def way(room: int | None) -> tuple[torch.Tensor, int, int]:
        model = lite0()
        start = [one.detach().clone() for one in model.parameters()]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with memory(room) if room else contextlib.nullcontext():
            result = train_locally(model, larger_images(), chosen, Stretch(1, 1), (1, 2), TETHER)
        pairs = zip(model.parameters(), start, strict=True)
        moved = torch.cat([(one.detach() - before).flatten() for one, before in pairs]).cpu()
        return moved, result.micro_batch, torch.cuda.max_memory_reserved()

    whole, batch, peak = way(None)
    halved, micro_batch, reserved = way(int(0.6 * peak))
    assert batch == 64
    assert micro_batch in (32, 16)
    assert reserved <= 0.6 * peak
    assert float((halved - whole).norm()) < 0.01 * float(whole.norm())


def test_dropout_draws_by_shape_alone() -> None:
    """A class token lies scattered in its batch; the factors of all parts are drawn beside the first."""
    tokens = torch.ones(64, 197, 768, device="cuda")[:, 0]
    kept = []
    for values in (tokens, tokens.contiguous()):
        torch.manual_seed(3)
        kept.append(BatchDropout(0.3)(values))
    assert torch.equal(*kept)


def test_scores_do_not_depend_on_what_memory_holds() -> None:
    images, rows = larger_images(256).images[0], np.arange(256)
    model = lite0()
    torch.cuda.reset_peak_memory_stats()
    expected = score_images(model, images, rows, precision="float32")
    peak = torch.cuda.max_memory_reserved()
    again = lite0()
    with memory(int(0.6 * peak)):
        found = score_images(again, images, rows, precision="float32")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=0.02 * float(other.std()) + 1e-4)


def test_what_a_site_needs_is_measured_with_its_context() -> None:
    experiment: Experiment = config.parse(
        {
            "name": "probe",
            "model": {"pretrained": "none", "image_size": 64},
            "training": {"batch_size": 16},
            "resources": {"gpus_per_site": "auto"},
            "sites": [{"name": "clinic", "source": "simulated"}],
        }
    )
    need = measure(experiment)
    assert need.micro_batch == need.batch == 16
    # A CUDA context alone takes some hundred MB; the weights, their gradients and Adam's state 55.
    assert 350 * 2**20 < need.site < need.total
    found = share(need, 1, 4)
    assert found.gpus_per_site == 0.25
    assert need.gpu in found.sentence
