"""Where tensors live, in which precision, and where randomness comes from."""

import numpy as np
import pytest
import torch

from fedderm.devices import autocast, pick_device, seeded, use_threads


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"resources\.gpus_per_site is 0\.5 but PyTorch sees no GPU here"):
        pick_device(0.5)
    assert pick_device(0).type == "cpu"


def test_auto_precision_is_float32_on_a_cpu() -> None:
    layer, row = torch.nn.Linear(3, 2), torch.ones(1, 3)
    found = {}
    for precision in ("auto", "float32", "bfloat16"):
        with autocast(torch.device("cpu"), precision):
            found[precision] = layer(row).dtype
    assert found == {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}


def test_a_seed_decides_all_three_streams() -> None:
    def draws(seed: tuple[int, ...]) -> tuple[float, float, float]:
        rng, generator = seeded(seed)
        return rng.random(), float(torch.rand(1, generator=generator)), float(torch.rand(1))

    assert draws((1, 2, 3)) == draws((1, 2, 3))
    streams = [draws(seed) for seed in ((1, 2, 3), (1, 2, 4), (2, 2, 3), (1, 2))]
    assert len({value for one in streams for value in one}) == 12


def test_seeding_leaves_numpys_global_state_alone() -> None:
    np.random.seed(5)  # noqa: NPY002
    seeded((1,))
    seeded((2,))
    expected = np.random.RandomState(5).random()
    assert np.random.random() == expected  # noqa: NPY002


def test_threads_are_set_when_they_differ() -> None:
    before = torch.get_num_threads()
    try:
        use_threads(1)
        assert torch.get_num_threads() == 1
        use_threads(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
