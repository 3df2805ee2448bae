"""Minimum cell sizes in counts: what a hospital's policy keeps from leaving.

Published counts are zero or at least ``min_cell``: small cells are merged with their neighbours. Two sides
of them leave, a floor and a ceiling. What is promised rests on the floor, where all that is hidden counts
against the model; what is measured lies ``between`` the two. ``redaction.py`` does the same for documents.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedderm.evaluation.counts import BIN_CENTRES, BINS, SHAPE, UNITS, Counts, bin_of, counts_of
from fedderm.evaluation.documents import Unit
from fedderm.evaluation.scores import Ints, Scores
from sites.diagnoses import CLASSES

Side = Literal["floor", "ceiling"]
FLOOR: Final = "-floor"
CEILING: Final = "-ceiling"
"""After the name of counts, where a minimum cell size merges them."""


@dataclass(frozen=True, eq=False)
class Merging:
    """Which units go where before anything leaves."""

    visible: NDArray[np.bool_]
    """``(4,)`` classes with at least ``min_cell`` lesions; no unit of another class leaves."""
    differential: NDArray[np.intp]
    """``(2, 4, 3)`` the differential under which each (unit, truth, differential) is reported, from 0."""
    bins: NDArray[np.intp]
    """``(2, 4, 3, bins)`` the bin at which each bin of a reported (unit, truth, differential) is reported."""


def merging(counts: Counts, min_cell: int, side: Side = "floor") -> Merging:
    """Return how counts are merged until no non-zero cell is below ``min_cell``.

    1. A class with fewer lesions is left out, images and lesions. 2. A differential given to fewer of a
    class's units is reported as that class's most frequent one. 3. Neighbouring bins are gathered, and
    malignant units reported at the lowest bin of their group, benign ones at the highest: on this ``floor``
    sensitivity, specificity and AUC are lower bounds, far below at a small site, and a threshold certified
    stays certified. ``ceiling`` is the other end of each group.
    """
    visible = counts.classes("lesion") >= max(min_cell, 1)
    differential = np.broadcast_to(np.arange(SHAPE[2]), SHAPE[:3]).copy()
    bins = np.broadcast_to(np.arange(BINS), SHAPE).copy()
    for unit, truth in np.ndindex(SHAPE[:2]):
        rows = counts.cells[unit, truth].copy()
        totals = rows.sum(axis=1)
        small = totals < min_cell
        small[totals.argmax()] = False
        differential[unit, truth, small] = totals.argmax()
        rows[totals.argmax()] += rows[small].sum(axis=0)
        for index in np.flatnonzero(~small):
            lowest = (truth > 0) == (side == "floor")
            bins[unit, truth, index] = merge_map(rows[index], min_cell, "lowest" if lowest else "highest")
    return Merging(visible, differential, bins)


def folded(scores: Scores, min_cell: int) -> Scores:
    """Return scores in which malignant classes of fewer lesions than ``min_cell`` count as the most frequent
    one.

    They stay malignant, so that triage and the certificate of a threshold speak of all malignant lesions.
    Where
    all malignant lesions together are fewer, nothing can be folded, and ``suppress`` leaves them out.
    """
    lesions = np.bincount(scores.per_lesion().truth, minlength=len(CLASSES))
    small = (lesions > 0) & (lesions < min_cell)
    small[0] = False
    if not small.any() or lesions[1:].sum() < min_cell:
        return scores
    largest = 1 + int(lesions[1:].argmax())
    return replace(scores, truth=np.where(small[scores.truth], largest, scores.truth))


def merge_map(row: Ints, min_cell: int, place: Literal["lowest", "highest"]) -> NDArray[np.intp]:
    """Return where the content of each bin of a histogram is reported, ``(bins,)``.

    From the lowest bin up, bins are gathered until they hold ``min_cell``; what is left at the top joins the
    last group. A group is reported at its lowest or highest occupied bin.
    """
    target = np.arange(len(row))
    for group in _groups(row, min_cell):
        target[group] = group[0] if place == "lowest" else group[-1]
    return target


def _groups(row: Ints, min_cell: int) -> list[list[int]]:
    groups: list[list[int]] = []
    held = min_cell
    for index in np.flatnonzero(row).tolist():
        if held >= min_cell:
            groups.append([])
            held = 0
        groups[-1].append(index)
        held += int(row[index])
    if held < min_cell and len(groups) > 1:
        groups[-2].extend(groups.pop())
    return groups


def suppress(counts: Counts, min_cell: int, side: Side = "floor") -> Counts:
    """Return counts without a non-zero cell below ``min_cell``, merged as ``merging`` says."""
    if min_cell <= 1:
        return counts
    plan = merging(counts, min_cell, side)
    unit, truth, differential, bins = np.nonzero(counts.cells * plan.visible[:, None, None])
    reported = plan.differential[unit, truth, differential]
    cells = np.zeros(SHAPE, np.int64)
    place = (unit, truth, reported, plan.bins[unit, truth, reported, bins])
    np.add.at(cells, place, counts.cells[unit, truth, differential, bins])
    return Counts(cells)


def told(name: str, counts: Counts, min_cell: int) -> dict[str, Counts]:
    """Return what leaves of counts, by name: themselves, or the floor and the ceiling of merged ones."""
    if min_cell <= 1:
        return {name: counts}
    return {
        name + FLOOR: suppress(counts, min_cell, "floor"),
        name + CEILING: suppress(counts, min_cell, "ceiling"),
    }


def understood(found: Mapping[str, Counts]) -> dict[str, Counts]:
    """Return counts that sites ``told``, by name, and ``name-floor`` where there is one beside them.

    Raises ValueError where a floor and a ceiling are not of the same groups.
    """
    known = {name: one for name, one in found.items() if not name.endswith(CEILING)}
    for name in list(known):
        if name.endswith(FLOOR):
            plain = name.removesuffix(FLOOR)
            if plain + CEILING not in found:
                raise ValueError(f"its counts {name} have no ceiling")
            known[plain] = between(known[name], found[plain + CEILING])
    return known


def between(floor: Counts, ceiling: Counts) -> Counts:
    """Return counts with each group's units spread evenly from its end in ``floor`` to that in ``ceiling``.

    At the groups' means, units would lie closer together than they do, and the AUC would read high (0.91 as
    0.97 at two sites of 120 lesions). Raises ValueError where the groups are not the same.
    """
    cells = np.zeros(SHAPE, np.int64)
    for where in np.ndindex(SHAPE[:3]):
        ends = [np.flatnonzero(side.cells[where]) for side in (floor, ceiling)]
        sizes = [side.cells[where][bins] for side, bins in zip((floor, ceiling), ends, strict=True)]
        if not np.array_equal(sizes[0], sizes[1]):
            raise ValueError("the floor and the ceiling of its counts are not of the same groups")
        for one, other, size in zip(*ends, sizes[0], strict=True):
            np.add.at(cells[where], _spread(one, other, size), 1)
    return Counts(cells)


def _spread(one: int, other: int, count: int) -> NDArray[np.intp]:
    """Return ``count`` bins, evenly from the lower of two ends to the higher."""
    return np.rint(np.linspace(min(one, other), max(one, other), count)).astype(np.intp)


def suppress_rows(scores: Scores, unit: Unit, min_cell: int) -> Scores:
    """Return the visible rows of a site with the logits (bin centres) at which ``understood`` puts them.

    ``unit`` lesion gives one row per lesion. Of use only to draw replicates that show nothing more.
    """
    rows = scores.per_lesion() if unit == "lesion" else scores
    if min_cell <= 1:
        return rows
    exact, index = counts_of(scores), UNITS.index(unit)
    floor, ceiling = merging(exact, min_cell, "floor"), merging(exact, min_cell, "ceiling")
    rows = rows.take(floor.visible[rows.truth])
    reported = floor.differential[index, rows.truth, rows.differential - 1]
    own = bin_of(rows.triage)
    ends = [plan.bins[index, rows.truth, reported, own] for plan in (floor, ceiling)]
    bins = np.empty(len(rows), np.intp)
    groups, member = np.unique(np.stack([rows.truth, reported, *ends], axis=1), axis=0, return_inverse=True)
    for number, (_, _, one, other) in enumerate(groups):
        group = np.flatnonzero(member.ravel() == number)
        bins[group[np.argsort(own[group], kind="stable")]] = _spread(one, other, len(group))
    return Scores(BIN_CENTRES[bins], reported + 1, rows.truth, rows.lesion)
