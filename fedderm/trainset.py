"""The images a site trains on, and how one round draws from them.

Class imbalance is handled in two places, both per site. Malignant images are drawn more often than they
occur, but at most ``oversampling`` times as often: a site with 24 melanomas among 4,000 images would
otherwise show each of them hundreds of times. And the loss takes into account what is drawn
(fedderm.label_skew): the network then learns what the image says, not the site's prevalence, which differs
from site to site by a factor of fifty and which recalibration puts back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from fedderm.metadata import Metadata
from fedderm.training_settings import TrainingSettings
from sites.diagnoses import CLASSES
from sites.diagnosis_schemes import NO_LABEL

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True)
class Diagnoses:
    """Labels of the head of diagnoses: ``labels`` (n,) index among K, NO_LABEL where there is none; ``drawn``
    (n, K): how many images of each diagnosis an image's site draws in a pass."""

    labels: Ints
    drawn: Floats

    @classmethod
    def of(cls, labels: Ints, weights: Floats, number: int) -> Self:
        """Return one site's ``labels`` among ``number`` diagnoses, drawn with ``weights`` (n,)."""
        known = labels != NO_LABEL
        drawn = np.bincount(labels[known], weights[known], minlength=number)
        return cls(labels, np.tile(drawn, (len(labels), 1)))


@dataclass(frozen=True)
class TrainSet:
    """Images of one site, or of several in one place.

    ``images``: arrays of pixels (N_i, S, S, 3) uint8, or of a frozen trunk's features (N_i, V, T, F) float32
    of V mirror images; ``rows`` (n, 2): array and row of each training image;
    ``classes`` (n,): 0..3; ``weights`` (n,): how often each is drawn, relative to the others; ``drawn``
    (n, 4): how many images of each class its site draws in a pass; ``sources``: how many sites the images
    come from; ``updates``: image updates of a round, where a message says so: a baseline has the whole
    federation's.
    """

    images: tuple[Images, ...]
    rows: Ints
    classes: Ints
    weights: Floats
    drawn: Floats
    sources: int = 1
    updates: int | None = None
    patterns: Floats | None = None
    """``(n, 7)`` labels of dermoscopic patterns, NaN where there are none; None: of no image."""
    diagnoses: Diagnoses | None = None
    """None of a model without a head of diagnoses."""
    metadata: Metadata | None = None
    """None of a model that is not told any."""

    def __len__(self) -> int:
        """Return the number of training images."""
        return len(self.rows)

    def effective(self) -> float:
        """Return 4 P N / (P + N): the size of a balanced set that tells the classes apart as well.

        The variance of a difference between class means goes with 1/P + 1/N, so 17 melanomas among 2,500
        nevi count for 68 images.
        """
        p = float((self.classes > 0).sum())
        return 4 * p * (len(self) - p) / len(self)

    def batch(self, chosen: Ints, views: Ints | None = None) -> Images:
        """Return the images (B, S, S, 3) of ``chosen`` positions, or their features (B, V, T, F).

        With ``views`` (B,), of features: those of one mirror image each, (B, T, F).
        """
        first = self.images[0]
        found = np.empty((len(chosen), *first.shape[1 if views is None else 2 :]), first.dtype)
        self.gather(chosen, found, views)
        return found

    def gather(self, chosen: Ints, into: Images, views: Ints | None = None) -> None:
        """Write into ``into`` what ``batch`` returns: memory that a GPU can read, for one."""
        rows = self.rows[chosen]
        if len(self.images) == 1:
            _take(self.images[0], rows[:, 1], views, into)
            return
        for array in np.unique(rows[:, 0]):
            own = rows[:, 0] == array
            part = np.empty((int(own.sum()), *into.shape[1:]), into.dtype)
            _take(self.images[array], rows[own, 1], None if views is None else views[own], part)
            into[own] = part

    def draw(self, count: int, rng: np.random.Generator) -> Ints:
        """Return ``count`` positions by systematic sampling, in random order.

        Each image comes its expected number of times, rounded up or down.
        """
        order = rng.permutation(len(self))
        edges = np.cumsum(self.weights[order])
        points = (np.arange(count) + rng.random()) * (edges[-1] / count)
        drawn = order[np.searchsorted(edges, points, side="right").clip(max=len(self) - 1)]
        return rng.permutation(drawn)


def _take(images: Images, rows: Ints, views: Ints | None, into: Images) -> None:
    if views is None:
        # Rows exist; "clip" spares the copy that keeps ``into`` whole where one does not.
        np.take(images, rows, axis=0, out=into, mode="clip")
    else:
        into[...] = images[rows, views]


def site_train_set(
    images: Images,
    rows: Ints,
    classes: Ints,
    settings: TrainingSettings,
    patterns: Floats | None = None,
    diagnoses: tuple[Ints, int] | None = None,
    metadata: Metadata | None = None,
) -> TrainSet:
    """Return the training set of one site: ``rows`` of ``images`` with their ``classes`` (n,).

    ``patterns`` (n, 7): labels, NaN where there are none; ``diagnoses``: labels (n,), and how many diagnoses
    there are; ``metadata`` of the n images.

    Raises ValueError where one of malignant and benign is absent: there is nothing to tell apart.
    """
    malignant = classes > 0
    share = float(malignant.mean()) if len(classes) else 0.0
    if not 0 < share < 1:
        found = (
            "no images" if not len(classes) else f"{int(malignant.sum())} malignant of {len(classes)} images"
        )
        raise ValueError(f"the train split has {found}; training needs malignant and benign lesions")
    target = max(share, min(settings.malignant_fraction, share * settings.oversampling))
    weights = np.where(malignant, target / share, (1 - target) / (1 - share))
    drawn = np.bincount(classes, weights, minlength=len(CLASSES))
    located = np.stack([np.zeros_like(rows), rows], axis=1)
    return TrainSet(
        (images,),
        located,
        classes,
        weights,
        np.tile(drawn, (len(classes), 1)),
        patterns=patterns,
        diagnoses=None if diagnoses is None else Diagnoses.of(diagnoses[0], weights, diagnoses[1]),
        metadata=metadata,
    )


def pool(sets: Sequence[TrainSet], *, balanced: bool = False) -> TrainSet:
    """Return several sites' training sets as one.

    Every image is drawn as often as at its site; ``balanced``: as many images of each site as of another
    (Rashid et al., 2026, train on joint sources that way).
    """
    shifted, arrays = [], 0
    for one in sets:
        shifted.append(one.rows + np.array([arrays, 0]))
        arrays += len(one.images)
    return TrainSet(
        tuple(array for one in sets for array in one.images),
        np.concatenate(shifted),
        np.concatenate([one.classes for one in sets]),
        np.concatenate([one.weights * (one.sources / one.weights.sum() if balanced else 1) for one in sets]),
        np.concatenate([one.drawn for one in sets]),
        sources=sum(one.sources for one in sets),
        patterns=_patterns(sets),
        diagnoses=_diagnoses(sets),
        metadata=_metadata(sets),
    )


def _metadata(sets: Sequence[TrainSet]) -> Metadata | None:
    known = [one.metadata for one in sets if one.metadata is not None]
    return Metadata.joined(known) if known else None


def _diagnoses(sets: Sequence[TrainSet]) -> Diagnoses | None:
    # Either all have them or none: they follow from the model, not from the site.
    known = [one.diagnoses for one in sets if one.diagnoses is not None]
    if not known:
        return None
    return Diagnoses(
        np.concatenate([one.labels for one in known]), np.concatenate([one.drawn for one in known])
    )


def _patterns(sets: Sequence[TrainSet]) -> Floats | None:
    known = [one.patterns for one in sets if one.patterns is not None]
    if not known:
        return None
    nothing = known[0].shape[1]
    return np.concatenate(
        [np.full((len(one), nothing), np.nan) if one.patterns is None else one.patterns for one in sets]
    )
