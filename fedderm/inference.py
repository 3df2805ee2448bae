"""Scores and features of images: batched, without gradients, with test-time views.

Images are given as pixels (N, S, S, 3) uint8, for a whole model, or as a frozen trunk's features (N, V, T, F)
of their V mirror images, for its heads (fedderm.feature_cache).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedderm.batches import to_input
from fedderm.devices import autocast
from fedderm.memory_limits import MemoryLimit, in_parts
from fedderm.model.heads import Heads, Logits

BATCH = 256
"""Images at a time on a GPU, up to ``GPU_SIDE`` pixels a side, and fewer of larger ones; more do not make it
any faster. Where its memory does not hold as many, fewer (fedderm.memory_limits).
"""
GPU_SIDE = 224
CPU_BATCH = 16
"""Images at a time on a CPU, whose caches hold no more: twice as many a second as with 256."""
BATCH_SIDE = 112
"""Pixels a side of the images of which a CPU's memory is asked to hold ``BATCH``."""

Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class ImageScores(NamedTuple):
    """What a model says of n images, and what it looked at: all from one pass."""

    triage: Floats
    """``(n,)`` logits."""
    differential: Floats | None
    """``(n, 3)`` logits; None in the binary scheme."""
    features: npt.NDArray[np.float32]
    """``(n, F)`` what the triage head sees: the pooled features of its trunk."""
    patterns: Floats | None = None
    """``(n, 8)`` logits of BCC and seven patterns; None of a model without them."""
    diagnoses: Floats | None = None
    """``(n, K)`` logits of a softmax over diagnoses; None of a model without that head."""


def predict_logits(
    model: Heads, images: Images, rows: npt.NDArray[np.int64], views: int = 1, precision: str = "auto"
) -> tuple[Floats, Floats | None]:
    """Return the triage logits (n,) and the differential logits (n, 3), or None in the binary scheme.

    ``rows`` (n,) of ``images`` are read; the logits of ``views`` 1, 2 or 4 mirror images are averaged.
    """
    found = score_images(model, images, rows, views, precision)
    return found.triage, found.differential


def score_images(
    model: Heads,
    images: Images,
    rows: npt.NDArray[np.int64],
    views: int = 1,
    precision: str = "auto",
    metadata: npt.NDArray[np.float32] | None = None,
) -> ImageScores:
    """Return logits and pooled trunk features of ``rows`` (n,) of ``images``, of which ``metadata`` (n, M)
    are known; None: nothing.

    Logits and features of ``views`` 1, 2 or 4 mirror images are averaged.
    """
    device = next(model.parameters()).device
    model.eval()
    triage, differential = [np.empty(0)], [np.empty((0, 3))]
    patterns: list[Floats] = []
    diagnoses: list[Floats] = []
    features = [np.empty((0, model.triage.in_features), np.float32)]

    def score(part: slice) -> None:
        """Score a part of the rows, and keep what the triage head saw of it."""
        seen.clear()
        known = None if metadata is None else torch.from_numpy(metadata[part]).to(device)
        with autocast(device, precision):
            logits = _mean([model(view, known) for view in views_of(images[rows[part]], views, device)])
        looked_at = torch.stack(seen).mean(dim=0).cpu().numpy()
        triage.append(logits.triage.double().cpu().numpy())
        if logits.differential is not None:
            differential.append(logits.differential.double().cpu().numpy())
        if logits.patterns is not None:
            patterns.append(logits.patterns.double().cpu().numpy())
        if logits.diagnoses is not None:
            diagnoses.append(logits.diagnoses.double().cpu().numpy())
        features.append(looked_at)

    limit = MemoryLimit(model, "scoring", side_of(images), precision)
    with torch.inference_mode(), _head_inputs(model) as seen:
        in_parts(limit, len(rows), images_at_once(side_of(images), device), score)
    has_differential = model.scheme != "binary"
    return ImageScores(
        np.concatenate(triage),
        np.concatenate(differential) if has_differential else None,
        np.concatenate(features),
        np.concatenate(patterns) if patterns else None,
        np.concatenate(diagnoses) if diagnoses else None,
    )


@contextmanager
def _head_inputs(model: Heads) -> Iterator[list[Tensor]]:
    """Collect what the triage head is given, one tensor a view, while the context lasts.

    Listening at the head costs nothing; ``model.features`` would be a second pass through the trunk.
    """
    seen: list[Tensor] = []
    handle = model.triage.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def side_of(images: Images) -> int:
    """Return the pixels a side that a model works on: 1 for features, which have none."""
    return images.shape[1] if images.dtype == np.uint8 else 1


def images_at_once(side: int, device: torch.device) -> int:
    """Return how many images of ``side`` pixels a device is given at a time, as long as its memory holds
    them; of features, which have one pixel a side, many more.
    """
    if side == 1:
        return BATCH * BATCH_SIDE**2
    most, usual = (CPU_BATCH, BATCH_SIDE) if device.type == "cpu" else (BATCH, GPU_SIDE)
    return max(1, min(most, BATCH * usual**2 // side**2))


def batches(rows: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield ``rows`` (n,) in parts of ``size``; the last may be smaller."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def extract_features(model: Heads, images: Images, precision: str = "auto") -> tuple[Floats, Floats]:
    """Return what the two heads see of ``images``, (n, F) each, not mirrored and without dropout."""
    device = next(model.parameters()).device
    model.eval()
    found: list[tuple[Floats, Floats]] = []

    def extract(part: slice) -> None:
        """Keep what both heads see of a part of the images."""
        with autocast(device, precision):
            first, last = model.features(next(views_of(images[part], 1, device)))
        found.append((first.double().cpu().numpy(), last.double().cpu().numpy()))

    with torch.inference_mode():
        in_parts(MemoryLimit(model, "scoring", side_of(images), precision), len(images), len(images), extract)
    first, last = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return first, last


def views_of(images: Images, count: int, device: torch.device) -> Iterator[Tensor]:
    """Yield what a model takes, for each of ``count`` mirror images."""
    if images.dtype == np.uint8:
        yield from mirror_images(to_input(images, device), count)
    else:
        yield from torch.from_numpy(images[:, :count]).to(device).unbind(dim=1)


def mirror_images(images: Tensor, count: int) -> Iterator[Tensor]:
    """Yield ``images`` (B, 3, H, W), then mirrored left-right, up-down and both; ``count`` in all."""
    flips: tuple[list[int], ...] = ([], [3], [2], [2, 3])
    for dims in flips[:count]:
        yield images.flip(dims) if dims else images


def _mean(views: list[Logits]) -> Logits:
    triage = torch.stack([view.triage.float() for view in views]).mean(dim=0)
    differentials = [view.differential.float() for view in views if view.differential is not None]
    patterns = [view.patterns.float() for view in views if view.patterns is not None]
    diagnoses = [view.diagnoses.float() for view in views if view.diagnoses is not None]
    further = (torch.stack(one).mean(dim=0) if one else None for one in (differentials, patterns, diagnoses))
    return Logits(triage, *further)
