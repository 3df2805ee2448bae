"""float32 to float16 and back, bit for bit as NumPy converts, at the speed of memory.

NumPy raises and looks at the processor's exception flags for every value that is subnormal in float16, below
2^-14: a tenth of a microsecond each (benchmarks.exchange), so that a round's updates, nearly all of them that
small, would take longer on their way than in training.
"""

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from strategies.blocks import over_blocks

_SIGN: Final = np.uint16(0x8000)
_INFINITE: Final = np.uint16(0x7C00)
_NOT_A_NUMBER: Final = np.uint16(0x7E00)


def to_half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return the nearest float16 of each value, ties to even; what is beyond becomes infinite."""
    found = np.empty(values.shape, np.float16)
    over_blocks(_encode, found, values)
    return found


def to_single(values: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the same values in float32, which holds all of them exactly."""
    found = np.empty(values.shape, np.float32)
    over_blocks(_decode, found, values)
    return found


def step_in_half(values: NDArray[np.float32], start: NDArray[np.float16]) -> NDArray[np.float16]:
    """Return ``to_half(values - start)``, without a copy in between."""

    def encode(out: NDArray[np.float16], to: NDArray[np.float32], since: NDArray[np.float16]) -> None:
        with np.errstate(invalid="ignore"):  # of a training that diverged; the guard refuses it
            step = to - _singles()[since.view(np.uint16)]
        _encode(out, step)

    found = np.empty(values.shape, np.float16)
    over_blocks(encode, found, values, start)
    return found


def plus_step(values: NDArray[np.float32], step: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return ``values + step``."""

    def add(out: NDArray[np.float32], to: NDArray[np.float32], one: NDArray[np.float16]) -> None:
        _decode(out, one)
        with np.errstate(invalid="ignore"):
            out += to

    found = np.empty(values.shape, np.float32)
    over_blocks(add, found, values, step)
    return found


def is_finite(values: NDArray[np.float16]) -> bool:
    """Return whether no value (of one or more) is NaN or infinite: those have all bits of the exponent."""
    return bool((values.view(np.uint16) & ~_SIGN).max() < _INFINITE)


@lru_cache(maxsize=1)
def _singles() -> NDArray[np.float32]:
    """Return float32's value of each of the 65,536 bit patterns."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _decode(out: NDArray[np.float32], values: NDArray[np.float16]) -> None:
    # Every index is in the table; "clip" says that none need be looked at.
    np.take(_singles(), values.view(np.uint16), out=out, mode="clip")


def _encode(out: NDArray[np.float16], values: NDArray[Any]) -> None:
    """Write float16's bits of ``values``, contiguous float32, into ``out``."""
    bits = values.view(np.uint32)
    size = bits & np.uint32(0x7FFFFFFF)
    # Normal in float16: the exponent's bias from 127 to 15 and 13 bits less, to the nearest, ties to even. A
    # carry into the exponent is right; beyond its last one is infinite.
    normal = (size >> np.uint32(13)) & np.uint32(1)
    normal += size
    normal += np.uint32((0xFFF - (112 << 23)) & 0xFFFFFFFF)
    normal >>= np.uint32(13)
    np.minimum(normal, np.uint32(_INFINITE), out=normal)
    # Subnormal in float16, multiples of 2^-24: 0.5 has this distance to its neighbours, so adding it rounds.
    with np.errstate(invalid="ignore"):
        small = (size.view(np.float32) + np.float32(0.5)).view(np.uint32)
    small -= np.uint32(0x3F000000)
    found = np.where(size < np.uint32(113 << 23), small, normal)
    if size.max() > np.uint32(0x7F800000):
        found[size > np.uint32(0x7F800000)] = _NOT_A_NUMBER
    found |= (bits >> np.uint32(16)) & np.uint32(_SIGN)
    out.view(np.uint16)[...] = found
