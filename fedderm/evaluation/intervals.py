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
    calibration_table,
    confusion_matrix,
    metrics_of,
    row_statistics,
    summarise,
)
from fedderm.evaluation.proportions import auc_interval, wilson
from fedderm.evaluation.ranking import auc, average_precision
from fedderm.evaluation.scores import Floats, Ints, Scores

LEVEL: Final = 0.95
"""Of every interval of a metric; not to be confused with the confidence of a certified threshold."""

FEW_LESIONS: Final = 30
"""Of a class: with fewer, the bootstrap's interval is too narrow (docs/evaluation.md says by how much)."""

_BOTH_CLASSES: Final = (
    "auc",
    "average_precision",
    "balanced_accuracy",
    "ppv",
    "f1",
    "calibration_slope",
    "calibration_intercept",
)

WEIGHTS_AT_ONCE: Final = 2_000_000
"""Bootstrap weights held in memory at a time: 16 MB."""


def lesion_weights(
    classes: Ints, resamples: int, rng: np.random.Generator, *, rescaled: bool = False
) -> Iterator[Floats]:
    """Yield ``(b, L)`` chunks, ``resamples`` rows in all: how often each of L lesions is drawn.

    ``classes`` ``(L,)`` is each lesion's true class; every row draws n of the n lesions of each class. With
    ``rescaled`` n - 1 of them are drawn and weigh n / (n - 1) each (Rao and Wu, JASA 83 (1988) 231-241): the
    variance of a mean over replicates is then not (n - 1) / n of what it should be. A class of one lesion
    keeps it.
    """
    strata = [np.flatnonzero(classes == c) for c in np.unique(classes)]
    chunk = max(1, WEIGHTS_AT_ONCE // max(1, len(classes)))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        weights = np.zeros((rows, len(classes)))
        for members in strata:
            n = len(members)
            draws = max(1, n - 1) if rescaled else n
            drawn = rng.integers(0, n, size=(rows, draws)) + n * np.arange(rows)[:, None]
            times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
            weights[:, members] = times * (n / draws)
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
    calibrated = {unit: calibration_table(tables[unit][0], point) for unit in UNITS}
    sides = {unit: _sorted_sides(*tables[unit]) for unit in UNITS}
    found: dict[Unit, list[dict[str, Floats]]] = {unit: [] for unit in UNITS}
    for weights in lesion_weights(lesions.truth, resamples, rng):
        for unit in UNITS:
            positive, positive_owner, negative, negative_owner = sides[unit]
            ranked = (positive, negative, weights[:, positive_owner], weights[:, negative_owner])
            found[unit].append(
                {
                    "auc": auc(*ranked),
                    "average_precision": average_precision(*ranked),
                    **summarise(weights @ statistics[unit], scheme),
                    **calibrated[unit].measures(weights[:, tables[unit][1]]),
                }
            )
    return {
        unit: {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for unit, parts in found.items()
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

    With fewer than FEW_LESIONS malignant or benign lesions the AUC takes ``auc_interval``, and a rate whose
    lesions are fewer takes Wilson's interval, lesions as n: a bootstrap of so few is too narrow. So do rates
    in which no replicate differs (all malignant lesions found, say); other metrics have no interval then.
    Metrics that need both classes get none from a single lesion of one.
    """
    lesions = {
        "sensitivity": positive_lesions,
        "specificity": benign_lesions,
        "accuracy": positive_lesions + benign_lesions,
    }
    fewest = min(positive_lesions, benign_lesions)
    found = {}
    for name in METRICS:
        value, replicates, n = values[name], drawn.get(name), lesions.get(name)
        single = name in _BOTH_CLASSES and fewest < 2
        if value is None or replicates is None or single or np.isnan(replicates).any():
            found[name] = Estimate(value=value)
        elif name == "auc" and fewest < FEW_LESIONS:
            found[name] = _around(value, auc_interval(value, positive_lesions, benign_lesions, LEVEL))
        elif n is not None and (n < FEW_LESIONS or _alike(replicates)):
            found[name] = _around(value, wilson(value * n, n, LEVEL))
        elif _alike(replicates):
            found[name] = Estimate(value=value)
        else:
            found[name] = percentile(name, value, replicates)
    return found


def _alike(replicates: Floats) -> bool:
    return bool(replicates.max() - replicates.min() < 1e-12)


def _around(value: float, interval: tuple[float, float]) -> Estimate:
    return Estimate(value=value, lower=min(interval[0], value), upper=max(interval[1], value))


def percentile(name: str, value: float, replicates: Floats) -> Estimate:
    """Return a metric's value with the 95 % percentile interval of its replicates; an ECE's is centred.

    Without an interval where it would not end: too many resamples have an infinite calibration slope.
    """
    with np.errstate(invalid="ignore"):
        limits = np.quantile(replicates, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    if not np.isfinite(limits).all():
        return Estimate(value=value)
    lower, middle, upper = limits.tolist()
    if name in ("ece", "ece_mass"):
        # Resampling adds noise to every bin, and so to the ECE: its replicates lie above it. Centred on the
        # value.
        lower, upper = max(0.0, lower - middle + value), min(1.0, upper - middle + value)
    return Estimate(value=value, lower=lower, upper=upper)
