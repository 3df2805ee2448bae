"""Minimum cell sizes: what a hospital's policy keeps from leaving.

Published counts are zero or at least ``min_cell``. A rate is published where its denominators reach
``min_cell``. Small cells are merged, not blurred: totals stay exact, positions become coarser.
"""

import numpy as np
from numpy.typing import NDArray

from fedderm.evaluation.counts import Counts
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
from fedderm.evaluation.scores import Ints


def visible_classes(lesions: Ints, min_cell: int) -> NDArray[np.bool_]:
    """Return which classes may be seen at all, given how many lesions each has."""
    return np.asarray(lesions) >= max(min_cell, 1)


def merge_map(row: Ints, min_cell: int) -> NDArray[np.intp]:
    """Return where the content of each bin of a histogram goes, ``(bins,)``.

    From the lowest bin up, bins are gathered until they hold ``min_cell``; what is left at the top joins the
    last group. A group is reported at its lowest occupied bin: scores move down only, so a threshold
    certified on merged positives stays certified.
    """
    target = np.arange(len(row))
    if min_cell <= 1:
        return target
    occupied = np.flatnonzero(row)
    groups: list[list[int]] = [[]]
    held = 0
    for index in occupied.tolist():
        if held >= min_cell:
            groups.append([])
            held = 0
        groups[-1].append(index)
        held += int(row[index])
    if held < min_cell and len(groups) > 1:
        groups[-2].extend(groups.pop())
    for group in groups:
        target[group] = group[0] if group else 0
    return target


def suppress(counts: Counts, min_cell: int) -> Counts:
    """Return counts without a non-zero cell below ``min_cell``.

    1. A class with fewer lesions than ``min_cell`` is left out, images and lesions. 2. A differential given
    to fewer of a class's units is added to that class's most frequent one. 3. Bins are merged
    (``merge_map``). Triage totals of the other classes stay exact; at any threshold, sensitivity reads low
    and specificity high by at most one group.
    """
    if min_cell <= 1:
        return counts
    cells = counts.cells.copy()
    cells[:, ~visible_classes(counts.classes("lesion"), min_cell)] = 0
    for unit, truth in np.ndindex(cells.shape[:2]):
        block = cells[unit, truth]
        largest = int(block.sum(axis=1).argmax())
        for differential in range(len(block)):
            if differential != largest and 0 < block[differential].sum() < min_cell:
                block[largest] += block[differential]
                block[differential] = 0
        for row in block:
            moved = np.bincount(merge_map(row, min_cell), row, len(row))
            row[:] = moved.astype(np.int64)
    return Counts(cells)


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
