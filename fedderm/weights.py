"""Named arrays as safetensors files, without torch. Nothing is ever unpickled."""

import json
import os
import re
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from fedderm.whole_file import whole

_ORDER: Final = "fedderm-order"
Arrays = dict[str, npt.NDArray[np.generic]]
"""A network's parameters and buffers by name."""


class FrozenTrunk(NamedTuple):
    """A trunk that is not trained: its arrays, under the whole model's names, and their digest."""

    arrays: Arrays
    digest: str


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write a safetensors file in one step: a reader sees the old file or the new one, whole.

    The order of the arrays, which the format does not keep, stands in its metadata. Written straight from the
    arrays, without a copy of the model. Raises OSError where the disk refuses.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with whole(path) as temporary:
        try:
            save_file(contiguous, temporary, {_ORDER: json.dumps(list(contiguous))})
        except SafetensorError as error:
            # It tells the system's error in its sentence alone.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(path)) from error


def read_arrays(path: Path) -> Arrays:
    """Return the arrays of a safetensors file, in the order in which ``save_arrays`` was given them.

    Raises ValueError where it is missing or damaged.
    """
    try:
        arrays = dict(load_file(path))
        with safe_open(path, "numpy") as file:
            names = _names((file.metadata() or {}).get(_ORDER, ""))
        return {name: arrays[name] for name in names} if sorted(names) == sorted(arrays) else arrays
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file of weights") from error
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path}: is not a readable safetensors file ({error}); train or copy it again"
        ) from error


def _names(order: str) -> list[str]:
    """Return the names in a file's metadata; none where they are no such list, as in a file of another's."""
    try:
        found = json.loads(order)
    except (ValueError, RecursionError):
        return []
    return list(map(str, found)) if isinstance(found, list) else []


def digest(arrays: Arrays) -> str:
    """Return 16 hexadecimal digits that tell arrays apart by names, types, shapes and values."""
    found = blake2b(digest_size=8)
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        found.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        found.update(array.tobytes())
    return found.hexdigest()
