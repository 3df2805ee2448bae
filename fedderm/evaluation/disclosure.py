"""Minimum cell sizes: what a hospital's policy keeps from leaving.

Published counts are zero or at least ``min_cell``. A rate is published where its denominators reach
``min_cell``. Small cells are merged with their neighbours; what is hidden counts against the model, never for
it.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedderm.evaluation.counts import BIN_CENTRES, BINS, SHAPE, UNITS, Counts, bin_of, counts_of
from fedderm.evaluation.documents import (
    Certificate,
    Estimate,
    Performance,
    ReliabilityBin,
    Roc,
    SiteEvaluation,
    SplitSize,
    Unit,
)
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.scores import Ints, Scores
from sites.diagnoses import CLASSES


@dataclass(frozen=True, eq=False)
class Merging:
    """Which units go where before anything leaves."""

    visible: NDArray[np.bool_]
    """``(4,)`` classes with at least ``min_cell`` lesions; no unit of another class leaves."""
    differential: NDArray[np.intp]
    """``(2, 4, 3)`` the differential under which each (unit, truth, differential) is reported, from 0."""
    bins: NDArray[np.intp]
    """``(2, 4, 3, bins)`` the bin at which each bin of a reported (unit, truth, differential) is reported."""


def merging(counts: Counts, min_cell: int) -> Merging:
    """Return how counts are merged until no non-zero cell is below ``min_cell``.

    1. A class with fewer lesions is left out, images and lesions. 2. A differential given to fewer of a
    class's units is reported as that class's most frequent one. 3. Neighbouring bins are gathered, and
    malignant units reported at the lowest bin of their group, benign ones at the highest. What is hidden thus
    counts against the model: sensitivity, specificity and AUC become lower bounds, and a threshold certified
    on merged counts stays certified.
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
            bins[unit, truth, index] = merge_map(rows[index], min_cell, "lowest" if truth else "highest")
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


def suppress(counts: Counts, min_cell: int) -> Counts:
    """Return counts without a non-zero cell below ``min_cell``, merged as ``merging`` says."""
    if min_cell <= 1:
        return counts
    plan = merging(counts, min_cell)
    unit, truth, differential, bins = np.nonzero(counts.cells * plan.visible[:, None, None])
    reported = plan.differential[unit, truth, differential]
    cells = np.zeros(SHAPE, np.int64)
    place = (unit, truth, reported, plan.bins[unit, truth, reported, bins])
    np.add.at(cells, place, counts.cells[unit, truth, differential, bins])
    return Counts(cells)


def suppress_rows(scores: Scores, unit: Unit, min_cell: int) -> Scores:
    """Return the visible rows of a site with the logits (bin centres) at which ``suppress`` reports them.

    ``unit`` lesion gives one row per lesion. Of use only to draw replicates that show nothing more.
    """
    rows = scores.per_lesion() if unit == "lesion" else scores
    if min_cell <= 1:
        return rows
    plan, index = merging(counts_of(scores), min_cell), UNITS.index(unit)
    rows = rows.take(plan.visible[rows.truth])
    reported = plan.differential[index, rows.truth, rows.differential - 1]
    bins = plan.bins[index, rows.truth, reported, bin_of(rows.triage)]
    return Scores(BIN_CENTRES[bins], reported + 1, rows.truth, rows.lesion)


def redact(evaluation: SiteEvaluation, min_cell: int) -> SiteEvaluation:
    """Return a site's document without counts below ``min_cell``; the same document for ``min_cell`` 0 or 1.

    A split with fewer malignant or benign units shows no metrics and n = 0; split sizes and diagnoses below
    become 0 or are left out; a confusion matrix with a small cell is left empty; ROC points and reliability
    bins are thinned until each step holds enough units.
    """
    if min_cell <= 1:
        return evaluation
    test = {unit: (p.positives, p.n - p.positives) for unit, p in evaluation.before.items()}
    own = evaluation.site_point.model_copy(update={"origin": _origin(evaluation, min_cell)})
    return evaluation.model_copy(
        update={
            "splits": {name: _size(size, min_cell) for name, size in evaluation.splits.items()},
            "diagnoses": {name: n for name, n in evaluation.diagnoses.items() if n >= min_cell},
            "site_point": own,
            "certificate": _certificate(evaluation.certificate, min_cell),
            "before": _performances(evaluation.before, min_cell),
            "after": _performances(evaluation.after, min_cell),
            "whole_site": _performances(evaluation.whole_site, min_cell),
            "roc": {unit: _thin(roc, *test[unit], min_cell) for unit, roc in evaluation.roc.items()},
            "reliability_before": _merge_bins(evaluation.reliability_before, min_cell),
            "reliability_after": _merge_bins(evaluation.reliability_after, min_cell),
        }
    )


def _hide(n: int, min_cell: int) -> int:
    return n if n >= min_cell else 0


def _size(size: SplitSize, min_cell: int) -> SplitSize:
    return SplitSize(**{name: _hide(n, min_cell) for name, n in size.model_dump().items()})


def _origin(evaluation: SiteEvaluation, min_cell: int) -> str:
    size = evaluation.splits.get("calibration")
    counted = () if size is None else (size.positive_lesions, size.lesions - size.positive_lesions)
    if not any(0 < n < min_cell for n in (*counted, evaluation.certificate.positives)):
        return evaluation.site_point.origin
    source = "The site's own" if evaluation.certificate.certified else "The federation's"
    return (
        f"{source} threshold; {evaluation.site_point.calibration} calibration. The calibration split has "
        f"fewer than {min_cell} malignant or benign lesions, and the site's policy does not say how many."
    )


def _certificate(certificate: Certificate, min_cell: int) -> Certificate:
    if certificate.positives == 0 or certificate.positives >= min_cell:
        return certificate
    sentence = (
        f"Cannot be certified: fewer than {min_cell} malignant lesions now, {certificate.needed} needed."
        if not certificate.certified
        else f"Certified from fewer than {min_cell} malignant lesions."
    )
    return certificate.model_copy(update={"positives": 0, "sentence": sentence})


def _performances(found: dict[Unit, Performance], min_cell: int) -> dict[Unit, Performance]:
    # Images of a lesion are no protection: both units are hidden where either has a small class.
    small = any(0 < n < min_cell for p in found.values() for n in (p.positives, p.n - p.positives))
    return {unit: _performance(value, min_cell, hidden=small) for unit, value in found.items()}


def _performance(found: Performance, min_cell: int, *, hidden: bool) -> Performance:
    if hidden:
        nothing = dict.fromkeys(found.metrics, Estimate(value=None))
        return found.model_copy(update={"n": 0, "positives": 0, "metrics": nothing, "confusion": []})
    small = any(0 < cell < min_cell for row in found.confusion for cell in row)
    return found.model_copy(update={"confusion": []}) if small else found


def _thin(roc: Roc, positives: int, negatives: int, min_cell: int) -> Roc:
    points = np.stack([roc.false_positive_rate, roc.true_positive_rate], axis=1)
    if len(points) == 0 or min(positives, negatives) < min_cell:
        return Roc(false_positive_rate=[], true_positive_rate=[])
    units = np.rint(points * [negatives, positives])
    kept = [0]
    for index in range(1, len(units) - 1):
        steps = np.stack([units[index] - units[kept[-1]], units[-1] - units[index]])
        if not np.any((steps > 0) & (steps < min_cell)):
            kept.append(index)
    kept.append(len(units) - 1)
    return Roc(false_positive_rate=points[kept, 0].tolist(), true_positive_rate=points[kept, 1].tolist())


def _merge_bins(bins: list[ReliabilityBin], min_cell: int) -> list[ReliabilityBin]:
    groups: list[list[ReliabilityBin]] = [[]]
    for one in bins:
        if sum(b.n for b in groups[-1]) >= min_cell:
            groups.append([])
        groups[-1].append(one)
    if len(groups) > 1 and sum(b.n for b in groups[-1]) < min_cell:
        groups[-2].extend(groups.pop())
    return [_joined(group) for group in groups if sum(b.n for b in group) >= min_cell]


def _joined(group: list[ReliabilityBin]) -> ReliabilityBin:
    n = sum(b.n for b in group)
    hits = round(sum(b.observed * b.n for b in group))
    lower, upper = wilson(hits, n)
    predicted = sum(b.predicted * b.n for b in group) / n
    return ReliabilityBin(predicted=predicted, observed=hits / n, lower=lower, upper=upper, n=n)
