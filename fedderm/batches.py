"""Batches for training: pixels, augmented, for a whole model, or a frozen trunk's features for its heads."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedderm.augment import augment
from fedderm.training_settings import AugmentationSettings
from fedderm.trainset import TrainSet


def training_batch(
    data: TrainSet,
    chosen: npt.NDArray[np.int64],
    settings: AugmentationSettings,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Return what a model takes of the ``chosen`` (B,) images: pixels (B, 3, H, W) or features (B, T, F).

    Pixels are augmented. Of cached features one of the V mirror images is drawn for each image while
    ``settings.geometry`` > 0, and the image as it is otherwise. All draws come from ``generator``.
    """
    if data.images[0].dtype == np.uint8:
        # Outside autocast, which would round the sampling grid to bfloat16: half a pixel at 112.
        return augment(to_input(data.batch(chosen), device), settings, generator)
    views = data.images[0].shape[1] if settings.geometry > 0 else 1
    drawn = torch.randint(views, (len(chosen),), generator=generator).numpy()
    return torch.from_numpy(data.batch(chosen, drawn)).to(device, non_blocking=True)


def to_input(images: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Return uint8 images (B, H, W, 3) as floats (B, 3, H, W) in 0..1, channels last, on ``device``."""
    return torch.from_numpy(images).to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
