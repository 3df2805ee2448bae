"""On a GPU: the same draws and nearly the same numbers as on a CPU, in bfloat16, channels last."""

import numpy as np
import pytest
import torch
from test_cascade import network
from test_training import data, settings

from fedderm.augment import augment
from fedderm.batches import to_input
from fedderm.devices import autocast, pick_device
from fedderm.inference import predict_logits
from fedderm.model.cascade import Cascade
from fedderm.model.state import load_arrays, to_arrays
from fedderm.settings import ModelSettings
from fedderm.training import Stretch, train_locally
from fedderm.training_settings import AugmentationSettings
from strategies.site_side import LocalObjective

TETHER = LocalObjective(mu=0.1)

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
    here, there = (
        augment(images.to(device), AugmentationSettings(), torch.Generator().manual_seed(3))
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
        triage, differential = model(to_input(data().images[0], pick_device(1)))
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
