"""Where tensors live, in which precision, and where randomness comes from."""

import contextlib
from collections.abc import Sequence

import numpy as np
import torch


def pick_device(gpus: float) -> torch.device:
    """Return the CUDA device where ``gpus`` > 0 were asked for, else the CPU.

    Raises ValueError where GPUs were asked for and there is none.
    """
    if gpus <= 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"resources.gpus_per_site is {gpus:g} but PyTorch sees no GPU here; set it to 0 to run on the CPU"
        )
    return torch.device("cuda")


def use_threads(count: int) -> None:
    """Let PyTorch use ``count`` threads: sums, and so weights, depend on it to the last bit."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


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
