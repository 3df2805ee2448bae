"""Many image files at once: decoding by threads, in order, and rows appended to .npy files."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sites.images import Pixels, content_hash, perceptual_fingerprint, read_image

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 16  # images a worker may be ahead of the writer; bounds memory


@dataclass(frozen=True)
class Decoded:
    """An image's fingerprints, taken from the file's own pixels, and what a network sees of it."""

    content: str
    perceptual: NDArray[np.uint8]
    square: Pixels


def decode(path: str, finish: Callable[[Pixels], Pixels]) -> Decoded:
    """Return an image file's fingerprints and ``finish`` of its pixels. Raises ImageUnreadable."""
    pixels = read_image(path)
    return Decoded(content_hash(pixels), perceptual_fingerprint(pixels), finish(pixels))


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None
) -> Generator[Result, None, None]:
    """Yield ``work(item)`` in the order of items, worked on by threads (None: one for each usable CPU).

    An exception of ``work``, or leaving the loop, cancels what has not begun.
    """
    count = workers or usable_cpus()
    waiting: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(count, thread_name_prefix="decode")
    try:
        for item in items:
            waiting.append(executor.submit(work, item))
            if len(waiting) >= _AHEAD * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def usable_cpus() -> int:
    """Return how many CPUs this process may run on, which a container or Ray may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class NpyWriter:
    """Appends equal uint8 rows to a .npy file.

    Plain writes, so that a full disk is an OSError: a memory map of a sparse file would die of SIGBUS.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        self._row_shape = row_shape
        self._rows = 0
        self._write_header()

    def append(self, row: NDArray[np.uint8]) -> None:
        self._file.write(np.ascontiguousarray(row).data)
        self._rows += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                # NumPy pads headers so that the number of rows can change in place.
                self._file.seek(0)
                self._write_header()
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _write_header(self) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (self._rows, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
