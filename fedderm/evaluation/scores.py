"""What a model says about images, beside what they are: the input of every evaluation."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sites.diagnoses import CLASSES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scores:
    """Triage logits, differentials and truths of N images (or of N lesions, see ``per_lesion``).

    Raises ValueError for arrays of different lengths, for logits that are NaN or infinite, and for a class
    index out of range. N = 0 is allowed: a split can be empty.
    """

    triage: Floats
    """``(N,)`` raw logit of malignancy, before any calibration."""
    differential: Ints
    """``(N,)`` most likely malignant class, 1 to 3; 1 where the scheme has none."""
    truth: Ints
    """``(N,)`` class index, 0 to 3 (``sites.diagnoses.CLASSES``)."""
    lesion: NDArray[np.str_]
    """``(N,)`` lesion ids."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "triage", np.asarray(self.triage, dtype=np.float64))
        object.__setattr__(self, "differential", _integers("differential", self.differential))
        object.__setattr__(self, "truth", _integers("truth", self.truth))
        object.__setattr__(self, "lesion", np.asarray(self.lesion, dtype=np.str_))
        _check_lengths(self)
        _check_values(self)

    @classmethod
    def empty(cls) -> "Scores":
        """Return the scores of no image at all."""
        return cls(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.str_))

    @classmethod
    def join(cls, *parts: "Scores") -> "Scores":
        """Return the rows of all parts, one after the other."""
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([part.triage for part in parts]),
            np.concatenate([part.differential for part in parts]),
            np.concatenate([part.truth for part in parts]),
            np.concatenate([part.lesion for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.triage)

    @property
    def positive(self) -> NDArray[np.bool_]:
        """``(N,)`` True where the truth is malignant."""
        return self.truth > 0

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Scores":
        """Return the chosen rows."""
        return Scores(self.triage[rows], self.differential[rows], self.truth[rows], self.lesion[rows])

    def shifted(self, log_odds: float) -> "Scores":
        """Return the scores with ``log_odds`` added to every triage logit."""
        return replace(self, triage=self.triage + log_odds)

    def per_lesion(self) -> "Scores":
        """Return one row per lesion, sorted by id: mean logit, differential of the most suspicious image.

        The most suspicious image has the highest triage logit (of equal ones, the one with the lowest
        differential). The result does not depend on the order of the rows, to the last bit. Raises ValueError
        where a lesion's images carry different truths.
        """
        order = np.lexsort((-self.differential, self.triage, self.lesion))
        rows = self.take(order)
        ids, first, sizes = np.unique(rows.lesion, return_index=True, return_counts=True)
        _check_one_truth(rows, ids, first)
        if len(ids) == 0:
            return rows
        means = np.add.reduceat(rows.triage, first) / sizes
        last = first + sizes - 1
        return Scores(means, rows.differential[last], rows.truth[first], ids)


def _integers(name: str, values: ArrayLike) -> Ints:
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"scores: {name} must hold integers, found {array.dtype}")
    return array.astype(np.int64)


def _check_lengths(scores: Scores) -> None:
    shapes = {name: getattr(scores, name).shape for name in ("triage", "differential", "truth", "lesion")}
    if scores.triage.ndim != 1 or len(set(shapes.values())) != 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"scores: all four arrays must have one shape (N,), found {found}")


def _check_values(scores: Scores) -> None:
    broken = int(np.count_nonzero(~np.isfinite(scores.triage)))
    if broken:
        raise ValueError(
            f"scores: {broken} of {len(scores)} triage logits are NaN or infinite; "
            "the model diverged or an image was decoded wrongly"
        )
    for name, values, low in (("truth", scores.truth, 0), ("differential", scores.differential, 1)):
        outside = int(np.count_nonzero((values < low) | (values >= len(CLASSES))))
        if outside:
            raise ValueError(
                f"scores: {outside} of {len(scores)} values of {name} lie outside {low} to {len(CLASSES) - 1}"
            )


def _check_one_truth(rows: Scores, ids: NDArray[np.str_], first: NDArray[np.intp]) -> None:
    if len(ids) == 0:
        return
    low, high = np.minimum.reduceat(rows.truth, first), np.maximum.reduceat(rows.truth, first)
    mixed = ids[low != high]
    if len(mixed):
        raise ValueError(
            f"scores: {len(mixed)} lesions carry images of different classes, first of them "
            f"{str(mixed[0])!r}; a lesion has one diagnosis"
        )
