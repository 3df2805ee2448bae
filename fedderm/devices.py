"""Where tensors live, in which precision, and where randomness comes from."""

import contextlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor


def pick_device(gpus: float | Literal["auto"]) -> torch.device:
    """Return the CUDA device where ``gpus`` > 0 were asked for, else the CPU; ``auto``: a GPU where this
    process sees one.

    What stays in float32 on a GPU is multiplied in TF32, whose ten bits torch already takes for convolutions.
    Raises ValueError where GPUs were asked for and there is none.
    """
    if gpus == "auto":
        gpus = 1.0 if torch.cuda.is_available() else 0.0
    if gpus <= 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"resources.gpus_per_site is {gpus:g} but PyTorch sees no GPU here; set it to 0 to run on the CPU"
        )
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")


def use_threads(count: int) -> None:
    """Let PyTorch and the BLAS libraries use ``count`` threads: sums, and so weights, depend on it to the
    last bit.

    torch's second pool, for operations side by side, stays empty: nothing here runs any.
    """
    if torch.get_num_threads() != count or _pools.get("blas") != count:
        torch.set_num_threads(count)
        threadpool_limits(limits=count, user_api="blas")
        _pools["blas"] = count


_pools: dict[str, int] = {}
"""What the BLAS libraries were told last: to ask them takes milliseconds."""


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Return bfloat16 autocast where ``precision`` says so; ``auto`` means on a GPU only."""
    wanted = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else contextlib.nullcontext()


def seeded(seed: Sequence[int]) -> tuple[np.random.Generator, torch.Generator]:
    """Return NumPy's and torch's generators for ``seed``, and set torch's global one, which dropout reads."""
    sequence = np.random.SeedSequence(list(seed))
    state = sequence.generate_state(2, dtype=np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
    generator = torch.Generator().manual_seed(int(state[1] >> np.uint64(1)))
    return np.random.default_rng(sequence), generator


def random_state(device: torch.device) -> Tensor:
    """Return the state of the global generator that ``device`` draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def restore_random_state(state: Tensor, device: torch.device) -> None:
    """Let the global generator of ``device`` draw what it drew after ``random_state``."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
