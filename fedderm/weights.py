"""Named arrays as safetensors files, without torch. Nothing is ever unpickled."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

Arrays = dict[str, npt.NDArray[np.generic]]
"""A network's parameters and buffers by name."""


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write a safetensors file in one step: a reader sees the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        # Not save_file: on a full disk it raises an error of its own that has no errno.
        temporary.write_bytes(save(contiguous))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_arrays(path: Path) -> Arrays:
    """Return the arrays of a safetensors file; raises ValueError where it is missing or damaged."""
    try:
        return dict(load_file(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file of weights") from error
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path}: is not a readable safetensors file ({error}); train or copy it again"
        ) from error
