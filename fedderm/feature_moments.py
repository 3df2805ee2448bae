"""The moments of a training set's features: what a site adds to the head start."""

import numpy as np
import numpy.typing as npt

from fedderm.head_start import Floats, Moments, moments
from fedderm.inference import batches, extract_features, images_at_once, side_of
from fedderm.model.heads import Heads
from fedderm.trainset import TrainSet
from sites.diagnoses import CLASSES

_IMAGES = 1024
"""Images whose features are in memory at a time: one gram matrix, which is larger, is made of them."""


def feature_moments(model: Heads, data: TrainSet, precision: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return ``gram`` and ``targets`` over all images and, in the cascade, over malignant ones for its
    second head.

    Images weigh as often as training draws them.
    """
    found: dict[str, Moments] = {}

    def add(name: str, features: Floats, one_hot: Floats, weights: Floats) -> None:
        part = moments(features, one_hot, weights)
        found[name] = found[name] + part if name in found else part

    for positions in batches(np.arange(len(data)), _IMAGES):
        first, last = _features(model, data, positions, precision)
        classes, weights = data.classes[positions], data.weights[positions]
        add("all", first, np.eye(len(CLASSES))[classes], weights)
        if model.scheme == "cascade":
            malignant = classes > 0
            one_hot = np.eye(len(CLASSES) - 1)[classes[malignant] - 1]
            add("malignant", last[malignant], one_hot, weights[malignant])
    return {
        f"{name}.{part}": getattr(one, part) for name, one in found.items() for part in ("gram", "targets")
    }


def _features(
    model: Heads, data: TrainSet, positions: npt.NDArray[np.int64], precision: str
) -> tuple[Floats, Floats]:
    """Return what the two heads see of the images at ``positions`` (n,): (n, F) each."""
    device = next(model.parameters()).device
    size = images_at_once(side_of(data.images[0]), device)
    parts = [extract_features(model, data.batch(chosen), precision) for chosen in batches(positions, size)]
    first, last = zip(*parts, strict=True)
    return np.concatenate(first), np.concatenate(last)
