"""Percentile intervals by a bootstrap of lesions, stratified by class.

Field and Welsh, "Bootstrapping clustered data", JRSS B 69 (2007): whole clusters are drawn, with all their
images. Draws are made within each of the four true classes, so no replicate is without positives.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from fedderm.evaluation.counts import UNITS
from fedderm.evaluation.documents import Estimate, OperatingPoint, Performance, Unit
from fedderm.evaluation.metrics import (
    METRICS,
    Scheme,
    absent_classes,
    auc,
    confusion_matrix,
    metrics_of,
    row_statistics,
    summarise,
)
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.scores import Floats, Ints, Scores

LEVEL: Final = 0.95
"""Of every interval of a metric; not to be confused with the confidence of a certified threshold."""

WEIGHTS_AT_ONCE: Final = 2_000_000
"""Bootstrap weights held in memory at a time: 16 MB."""


def lesion_weights(classes: Ints, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield ``(b, L)`` chunks, ``resamples`` rows in all: how often each of L lesions is drawn.

    ``classes`` ``(L,)`` is each lesion's true class; every row draws n of the n lesions of each class.
    """
    strata = [np.flatnonzero(classes == c) for c in np.unique(classes)]
    chunk = max(1, WEIGHTS_AT_ONCE // max(1, len(classes)))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        weights = np.zeros((rows, len(classes)))
        for members in strata:
            n = len(members)
            drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
            weights[:, members] = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        yield weights


def bootstrap(
    scores: Scores, point: OperatingPoint, scheme: Scheme, resamples: int, rng: np.random.Generator
) -> dict[Unit, dict[str, Floats]]:
    """Return each metric's value in every replicate, ``(resamples,)``, for images and for lesions.

    Both units share the draws. NaN where a metric is undefined.
    """
    lesions = scores.per_lesion()
    owner = np.searchsorted(lesions.lesion, scores.lesion)
    tables: dict[Unit, tuple[Scores, Ints]] = {
        "image": (scores, owner.astype(np.int64)),
        "lesion": (lesions, np.arange(len(lesions))),
    }
    statistics = {
        unit: _by_lesion(rows, owners, point, scheme, len(lesions)) for unit, (rows, owners) in tables.items()
    }
    sums: dict[Unit, list[Floats]] = {unit: [] for unit in UNITS}
    aucs: dict[Unit, list[Floats]] = {unit: [] for unit in UNITS}
    sides = {unit: _sorted_sides(*tables[unit]) for unit in UNITS}
    for weights in lesion_weights(lesions.truth, resamples, rng):
        for unit in UNITS:
            positive, positive_owner, negative, negative_owner = sides[unit]
            sums[unit].append(weights @ statistics[unit])
            aucs[unit].append(auc(positive, negative, weights[:, positive_owner], weights[:, negative_owner]))
    return {
        unit: {"auc": np.concatenate(aucs[unit]), **summarise(np.concatenate(sums[unit]), scheme)}
        for unit in UNITS
    }


def _by_lesion(rows: Scores, owners: Ints, point: OperatingPoint, scheme: Scheme, lesions: int) -> Floats:
    statistics = row_statistics(rows, point, scheme)
    summed = np.zeros((lesions, statistics.shape[1]))
    np.add.at(summed, owners, statistics)
    return summed


def _sorted_sides(rows: Scores, owners: Ints) -> tuple[Floats, Ints, Floats, Ints]:
    order = np.argsort(rows.triage, kind="stable")
    positive, negative = order[rows.positive[order]], order[~rows.positive[order]]
    return rows.triage[positive], owners[positive], rows.triage[negative], owners[negative]


def performance(
    scores: Scores,
    point: OperatingPoint,
    scheme: Scheme,
    resamples: int,
    rng: np.random.Generator,
) -> dict[Unit, Performance]:
    """Return performance on images and on lesions, with 95 % intervals unless ``resamples`` is 0."""
    lesions = scores.per_lesion()
    drawn = bootstrap(scores, point, scheme, resamples, rng) if resamples and len(scores) else None
    n, p = len(lesions), int(np.count_nonzero(lesions.positive))
    found: dict[Unit, Performance] = {}
    for unit, rows in zip(UNITS, (scores, lesions), strict=True):
        values = metrics_of(rows, point, scheme)
        confusion = confusion_matrix(rows, point, scheme)
        found[unit] = Performance(
            unit=unit,
            n=len(rows),
            positives=int(np.count_nonzero(rows.positive)),
            metrics=estimates(values, drawn[unit] if drawn else {}, positive_lesions=p, benign_lesions=n - p),
            confusion=confusion,
            absent_classes=absent_classes(confusion, scheme),
        )
    return found


def estimates(
    values: dict[str, float | None], drawn: dict[str, Floats], *, positive_lesions: int, benign_lesions: int
) -> dict[str, Estimate]:
    """Return METRICS with percentile intervals of the replicates in ``drawn``, where there are any.

    A bootstrap says nothing where no replicate differs (all malignant lesions found, say): sensitivity and
    specificity then take Wilson's interval with lesions as n, other metrics none. Metrics that need both
    classes get no interval from a single lesion of one.
    """
    lesions = {"sensitivity": positive_lesions, "specificity": benign_lesions}
    fewest = min(positive_lesions, benign_lesions)
    found = {}
    for name in METRICS:
        value, replicates = values[name], drawn.get(name)
        if value is None or replicates is None or not np.all(np.isfinite(replicates)):
            found[name] = Estimate(value=value)
        elif np.ptp(replicates) < 1e-12:
            found[name] = _without_spread(value, lesions.get(name))
        elif name in ("auc", "balanced_accuracy") and fewest < 2:
            found[name] = Estimate(value=value)
        else:
            found[name] = _percentile(name, value, replicates)
    return found


def _without_spread(value: float, lesions: int | None) -> Estimate:
    if lesions is None:
        return Estimate(value=value)
    lower, upper = wilson(round(value * lesions), lesions, LEVEL)
    return Estimate(value=value, lower=min(lower, value), upper=max(upper, value))


def _percentile(name: str, value: float, replicates: Floats) -> Estimate:
    lower, middle, upper = np.quantile(replicates, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2]).tolist()
    if name == "ece":
        # Resampling adds noise to every bin, and so to the ECE: its replicates lie above it. Centred on the
        # value.
        lower, upper = max(0.0, lower - middle + value), min(1.0, upper - middle + value)
    return Estimate(value=value, lower=lower, upper=upper)
