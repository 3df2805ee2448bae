"""The moments of a training set's features: what a site adds to the head start."""

import numpy as np
import numpy.typing as npt

from fedderm.head_start import Moments, moments, total
from fedderm.inference import batches, extract_features, images_at_once, side_of
from fedderm.model.heads import Heads
from fedderm.trainset import TrainSet
from sites.diagnoses import CLASSES


def feature_moments(model: Heads, data: TrainSet, precision: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return ``gram`` and ``targets`` over all images and, in the cascade, over malignant ones for its
    second head.

    Images weigh as often as training draws them.
    """
    of_all: list[Moments] = []
    of_malignant: list[Moments] = []
    device = next(model.parameters()).device
    size = images_at_once(side_of(data.images[0]), device)
    for chosen in batches(np.arange(len(data)), size):
        first, last = extract_features(model, data.batch(chosen), precision)
        classes, weights = data.classes[chosen], data.weights[chosen]
        of_all.append(moments(first, np.eye(len(CLASSES))[classes], weights))
        malignant = classes > 0
        one_hot = np.eye(len(CLASSES) - 1)[classes[malignant] - 1]
        of_malignant.append(moments(last[malignant], one_hot, weights[malignant]))
    found = {"all": total(of_all)}
    if model.scheme == "cascade":
        found["malignant"] = total(of_malignant)
    return {
        f"{name}.{part}": getattr(one, part) for name, one in found.items() for part in ("gram", "targets")
    }
