"""The levels of an attribute (age, sex, anatomical site, ...) among a site's lesions, and which may be shown.

Levels come from records, never from pixels. A minimum cell size hides small levels and, with them, as many
others as it takes that none can be found by subtraction (complementary suppression; Hundepool et al.,
"Statistical Disclosure Control", 2012, ch. 4).
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedderm.evaluation.disclosure import folded
from fedderm.evaluation.scores import Ints, Scores

Names = NDArray[np.str_]

NOT_RECORDED: Final = "not recorded"
HIDDEN: Final = "hidden levels together"
"""The levels that a minimum cell size hides, as one row."""

OLDEST: Final = 120
_BANDS: Final = ("0-39", "40-59", "60-79", "80+")


def age_bands(ages: ArrayLike) -> Names:
    """Return each age's band, ``(N,)``: 0-39, 40-59, 60-79, 80+; "" where it is not recorded.

    Not recorded are NaN, blank text and 0, which is how HAM10000 writes an unknown age. Ages are years;
    ValueError for one below 0 or above 120.
    """
    given = np.asarray(ages)
    if given.dtype.kind in "OUS":
        given = np.array([str(one).strip() or "nan" for one in given])
    try:
        years = given.astype(np.float64)
    except ValueError as error:
        raise ValueError(f"age bands: ages must be numbers of years, or blank ({error})") from error
    wrong = (years < 0) | (years > OLDEST)
    if wrong.any():
        raise ValueError(f"age bands: expected 0 to {OLDEST} years, found {years[wrong][0]:g}")
    bands = np.array(_BANDS)[np.searchsorted([40, 60, 80], years, side="right") % len(_BANDS)]
    return np.where(np.isnan(years) | (years == 0), "", bands)


def lesion_levels(scores: Scores, attribute: str, levels: Names) -> Names:
    """Return the level of each lesion, ``(L,)`` in the order of ``per_lesion``.

    ``levels`` ``(N,)`` are the images', "" where not recorded. A lesion has the level that its images agree
    on, blanks aside, and NOT_RECORDED where they disagree or have none. Raises ValueError for levels of
    another length than the scores.
    """
    levels = np.char.strip(np.asarray(levels, dtype=np.str_))
    if levels.shape != scores.lesion.shape:
        raise ValueError(
            f"subgroups: {attribute} must have a level for each of {len(scores)} images, "
            f"found shape {levels.shape}"
        )
    ids, owner = np.unique(scores.lesion, return_inverse=True)
    known = levels != ""
    names, code = np.unique(levels[known], return_inverse=True)
    low, high = np.full(len(ids), len(names)), np.full(len(ids), -1)
    np.minimum.at(low, owner[known], code)
    np.maximum.at(high, owner[known], code)
    return np.where(low == high, np.append(names, "")[np.minimum(low, len(names))], NOT_RECORDED)


def shown_levels(lesions: Scores, levels: Names, min_cell: int) -> list[tuple[str, NDArray[np.intp]]]:
    """Return (level, its lesions) in order of name, not recorded and joined ones last.

    Without ``min_cell`` every level is shown. With it, no row has a non-zero count of benign or malignant
    lesions below it, and the hidden levels are one row, which is what a reader could subtract anyway.
    """
    names, code = np.unique(levels, return_inverse=True)
    hidden = np.zeros(len(names), dtype=np.bool_)
    if min_cell > 1:
        hidden = joined_levels(_cells(lesions, code, len(names), min_cell), min_cell)
        if hidden.all():
            return []
    last = [name for name in names.tolist() if name == NOT_RECORDED]
    order = [name for name in names.tolist() if name != NOT_RECORDED] + last
    shown = [name for name in order if not hidden[names.tolist().index(name)]]
    found = [(name, np.flatnonzero(levels == name)) for name in shown]
    return found + ([(HIDDEN, np.flatnonzero(hidden[code]))] if hidden.any() else [])


def joined_levels(cells: Ints, min_cell: int) -> NDArray[np.bool_]:
    """Return which levels must be joined, ``(K,)``, for counts ``(K, C)`` whose column sums are known.

    A level with a non-zero cell below ``min_cell`` is, and then, as long as the joined cells of a column sum
    to fewer, the level with some of most such columns, of equals the smallest (complementary suppression):
    what a reader subtracts from the column's sum is zero or at least ``min_cell``. All levels where that
    cannot be had.
    """
    hidden: NDArray[np.bool_] = np.any((cells > 0) & (cells < min_cell), axis=1)
    while True:
        together = cells[hidden].sum(axis=0)
        short = (together > 0) & (together < min_cell)
        if not short.any():
            return hidden
        helps = np.where(hidden, 0, (cells[:, short] > 0).sum(axis=1))
        if not helps.any():
            return np.ones_like(hidden)
        others = np.flatnonzero(helps == helps.max())
        hidden[others[cells[others].sum(axis=1).argmin()]] = True


def _cells(lesions: Scores, code: NDArray[np.intp], levels: int, min_cell: int) -> Ints:
    """``(K, C)`` benign and malignant lesions by level and, where levels lie within classes, each class's.

    A diagnosis lies within one class, whose lesions the site's counts tell (small classes folded into the
    largest there): its neighbours must not give it away.
    """
    truth = folded(lesions, min_cell).truth
    columns = [~lesions.positive, lesions.positive]
    within = all(len(np.unique(lesions.truth[code == level])) == 1 for level in range(levels))
    columns += [truth == one for one in np.unique(truth[lesions.positive])] if within else []
    return np.stack([np.bincount(code[column], minlength=levels) for column in columns], axis=1)
