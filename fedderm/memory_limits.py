"""How many images a device's memory holds at a time: found out by trying, and remembered.

What fits depends on the network, on the other processes of a shared GPU and on the allocator, so that trying
is the one sure way. What has been found is kept with the model in its process, for later steps and rounds.
"""

import gc
from collections.abc import Callable
from typing import Final, Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn

Work = Literal["training", "private", "scoring"]

_FULL: Final = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
"""In the errors of CUDA, its libraries and torch's CPU allocator, which have no type of their own."""


class MemoryLimit:
    """The most images at a time that a model's memory is asked to hold, for one kind of work."""

    def __init__(self, model: nn.Module, work: Work, side: int, precision: str) -> None:
        """Take up what is known in this process of ``model`` and images of ``side`` pixels."""
        self._known = _KNOWN.setdefault(model, {})
        self._key = (work, side, precision)
        self._tried: list[int] = []

    def largest(self, count: int) -> int:
        """Return how many of ``count`` images to work on at a time: all, or parts as equal as can be."""
        known = self._known.get(self._key, count)
        return -(-count // -(-count // known)) if count else 1

    def parts(self, count: int) -> list[slice]:
        """Return the parts of a batch of ``count`` images."""
        size = self.largest(count)
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]

    def halve(self, tried: int) -> None:
        """Remember that ``tried`` images at a time were too many.

        Raises ValueError where it was a single one.
        """
        self._tried.append(tried)
        if tried == 1:
            told = ", ".join(str(one) for one in self._tried)
            raise ValueError(
                f"the memory of the device does not hold one image at a time (tried {told}); lower "
                "model.image_size, take a smaller model.backbone, or let fewer sites share the GPU "
                "(resources.gpus_per_site, resources.workers)"
            )
        self._known[self._key] = min(-(-tried // 2), self._known.get(self._key, tried))


_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[Work, int, str], int]] = WeakKeyDictionary()


def fits(work: Callable[[], object]) -> bool:
    """Do ``work`` and return True; return False where memory did not hold it, after letting go of what it
    took.
    """
    try:
        work()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(one in str(error) for one in _FULL):
            raise
    else:
        return True
    # Only here, where the error is gone: it held the frames, and these the tensors.
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    return False


def in_parts(limit: MemoryLimit, count: int, most: int, work: Callable[[slice], object]) -> None:
    """Do ``work`` on slices of ``count`` images, in order, ``most`` at a time or as many as memory holds.

    A part that did not fit is done again, smaller; ``work`` must leave nothing behind where it raises.
    Raises ValueError where one image is too many.
    """
    start = 0
    while start < count:
        size = limit.largest(min(most, count - start))
        if fits(lambda part=slice(start, start + size): work(part)):  # type: ignore[misc]
            start += size
        else:
            limit.halve(size)
