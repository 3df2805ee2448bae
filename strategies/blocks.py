"""Work over large arrays in pieces that fit a processor's cache, by as many threads as there are cores."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Final, TypeVar

from numpy.typing import NDArray

Result = TypeVar("Result")

_BLOCK: Final = 1 << 15
"""Elements at a time: three arrays of them lie in a core's own cache. Twice as fast as whole arrays."""
_SPAN: Final = 1 << 20
"""Elements for a thread; an array of fewer is done where it is."""


def over_blocks(work: Callable[..., Result], *arrays: NDArray[Any]) -> list[Result]:
    """Return what ``work`` says of each block of the ``arrays``, which have the same number of elements.

    It is given one-dimensional views, one of each array, which it may write to where the array is contiguous.
    NumPy lets go of Python's lock meanwhile, so that threads share the work.
    """
    flat = [array.reshape(-1) for array in arrays]
    count = flat[0].size
    if 0 < count <= _BLOCK:  # most of a model's arrays
        return [work(*flat)]
    if count <= _SPAN:
        return _span(work, flat, 0, count)
    spans = range(0, count, _SPAN)
    parts = _threads().map(lambda start: _span(work, flat, start, min(start + _SPAN, count)), spans)
    return [one for part in parts for one in part]


def _span(work: Callable[..., Result], flat: Sequence[NDArray[Any]], start: int, end: int) -> list[Result]:
    return [
        work(*(array[one : min(one + _BLOCK, end)] for array in flat)) for one in range(start, end, _BLOCK)
    ]


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="blocks")
