"""Batches for training: pixels, augmented, for a whole model, or a frozen trunk's features for its heads.

A thread of its own gathers the next batches from the memory map while the device computes; on a GPU they are
copied on a stream of their own, too. What is drawn, and in which order, does not depend on it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedderm.augment import augment, draw
from fedderm.mixing import COLUMNS, Mixture, draw_mixing, mixed, mixture_of
from fedderm.training_settings import AugmentationSettings
from fedderm.trainset import TrainSet

Positions = npt.NDArray[np.int64]

AHEAD: Final = 2
"""Batches that are made while another is trained on: one that waits, and one in the making."""


@dataclass(frozen=True)
class Batch:
    """Images as they lie in memory, and what is to happen to them."""

    images: Tensor
    """Pixels (B, H, W, 3) uint8, or features (B, T, F); on the device, or beside it where it is full."""
    drawn: Tensor
    """``(B, D)`` of ``augment.draw`` and, where images are mixed, of ``draw_mixing``; there too. Features
    have the latter alone."""
    settings: AugmentationSettings
    known: Tensor | None = None
    """``(B, M)`` metadata, some of them hidden; None of a model that is not told any."""

    def inputs(self, part: slice, device: torch.device) -> Tensor:
        """Return what a model takes of a part of the batch: pixels (b, 3, H, W) or features (b, T, F)."""
        own = self._augmented(part, device)
        if (mixture := self.mixture(part)) is None:
            return own
        return mixed(own, self._augmented(mixture.partners, device), mixture, self.settings)

    def metadata(self, part: slice, device: torch.device) -> Tensor | None:
        """Return the metadata of a part of the batch, (b, M), mixed as the images are."""
        if self.known is None:
            return None
        own = self.known[part]
        if (mixture := self.mixture(part)) is not None:
            share = mixture.own.to(own.device)[:, None]
            own = share * own + (1 - share) * self.known[mixture.partners.to(own.device)]
        return own.to(device, non_blocking=True)

    def mixture(self, part: slice) -> Mixture | None:
        """Return what is mixed into a part of the batch; None where images stay themselves."""
        if self.settings.mixing == "none":
            return None
        return mixture_of(self.drawn[part, -COLUMNS:], self.settings, self.images.shape[1])

    def _augmented(self, rows: slice | Tensor, device: torch.device) -> Tensor:
        images = self.images[rows].to(device, non_blocking=True)
        if images.dtype != torch.uint8:
            return images
        # Outside autocast, which would round the sampling grid to bfloat16: half a pixel at 112.
        return augment(as_floats(images), self.drawn[rows].to(device, non_blocking=True), self.settings)


@contextmanager
def training_batches(
    data: TrainSet,
    chosen: Sequence[Positions],
    settings: AugmentationSettings,
    generator: torch.Generator,
    device: torch.device,
) -> Iterator[Iterator[Batch]]:
    """Give the batches of ``chosen`` positions (B,), one after the other, made ahead by a thread.

    Pixels are augmented. Of cached features one of the V mirror images is drawn for each image while
    ``settings.geometry`` > 0, and the image as it is otherwise. All draws come from ``generator``. When the
    context is left the thread has ended, whatever happened.
    """
    if data.images[0].dtype != np.uint8:
        # Gathered in less time than a thread takes to be asked.
        yield (_features(data, positions, settings, generator, device) for positions in chosen)
        return
    stage = _Stage(device, settings)

    def make(positions: Positions) -> Callable[[], Batch]:
        """Draw a batch's changes, fetch its images, and send both on their way; return how to get them."""
        drawn = draw(len(positions), settings, generator)
        if settings.mixing != "none":
            drawn = torch.cat([drawn, draw_mixing(len(positions), settings, generator)], dim=1)
        images = stage.empty((len(positions), *data.images[0].shape[1:]), torch.uint8)
        data.gather(positions, images.numpy())
        return stage.sent(images, drawn, _known(data, positions, generator))

    with ThreadPoolExecutor(1, thread_name_prefix="fedderm-batches") as pool:
        try:
            yield _ahead(pool, make, chosen)
        finally:
            pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, make: Callable[[Positions], Callable[[], Batch]], chosen: Sequence[Positions]
) -> Iterator[Batch]:
    waiting: deque[Future[Callable[[], Batch]]] = deque()
    for positions in chosen:
        waiting.append(pool.submit(make, positions))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()()
    while waiting:
        yield waiting.popleft().result()()


class _Stage:
    """The way from memory to the device: none on a CPU; page-locked memory and a stream on a GPU."""

    def __init__(self, device: torch.device, settings: AugmentationSettings) -> None:
        self._device = device
        self._settings = settings
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return memory that the device can read while it computes."""
        return torch.empty(*shape, dtype=dtype, pin_memory=self._cuda)

    def sent(self, images: Tensor, drawn: Tensor, known: Tensor | None) -> Callable[[], Batch]:
        """Start the copy; return what waits for it, to be called by the thread that computes."""
        if self._stream is None:
            return lambda: Batch(images, drawn, self._settings, known)
        try:
            with torch.cuda.stream(self._stream):
                on_device = [one.to(self._device, non_blocking=True) for one in (images, drawn.pin_memory())]
                copied = self._stream.record_event()
        except torch.OutOfMemoryError:
            # The step will make room, or take the batch in parts.
            return lambda: Batch(images, drawn, self._settings, known)

        def arrived() -> Batch:
            """Wait, on the GPU's own stream, until the copy is there."""
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            for one in on_device:  # so that its memory is not used again before the step has read it
                one.record_stream(current)
            return Batch(on_device[0], on_device[1], self._settings, known)

        return arrived


def _features(
    data: TrainSet,
    positions: Positions,
    settings: AugmentationSettings,
    generator: torch.Generator,
    device: torch.device,
) -> Batch:
    views = data.images[0].shape[1] if settings.geometry > 0 else 1
    drawn = torch.randint(views, (len(positions),), generator=generator).numpy()
    mixing = torch.empty(len(positions), 0)
    if settings.mixing != "none":
        mixing = draw_mixing(len(positions), settings, generator)
    features = torch.from_numpy(data.batch(positions, drawn)).to(device, non_blocking=True)
    known = _known(data, positions, generator)
    return Batch(features, mixing.to(device, non_blocking=True), settings, known)


def _known(data: TrainSet, positions: Positions, generator: torch.Generator) -> Tensor | None:
    return None if data.metadata is None else data.metadata.drawn(positions, generator)


def to_input(images: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Return uint8 images (B, H, W, 3) as floats (B, 3, H, W) in 0..1, channels last, on ``device``."""
    return as_floats(torch.from_numpy(images).to(device, non_blocking=True))


def as_floats(images: Tensor) -> Tensor:
    """Return uint8 images (B, H, W, 3) as floats (B, 3, H, W) in 0..1, channels last."""
    # In place: a second tensor of this size costs ten times as much as the division, in fresh pages.
    return images.permute(0, 3, 1, 2).float().div_(255)
