"""Macro-F1 of the end-to-end decision as the triage threshold moves: what a cascade lets a clinic choose.

Below the threshold a lesion is benign, above it MEL, SCC or BCC, whichever is likeliest (arXiv 2606.13135).
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.documents import OperatingPoint
from fedderm.evaluation.intervals import lesion_weights
from fedderm.evaluation.lesion_draws import Judged, SiteDraws
from fedderm.evaluation.metrics import macro_f1
from fedderm.evaluation.scores import Floats, Scores
from sites.diagnoses import CLASSES

OWN: Final = "macro_f1"
"""At the federation threshold of each cell's own."""


def step_metric(step: float) -> str:
    """Return the name of macro-F1 where triage decides at a calibrated P(malignant) of ``step``."""
    return f"{OWN} at {step:g}"


def sweep_metrics(steps: Sequence[float]) -> tuple[str, ...]:
    """Return the metrics of a sweep: at the federation threshold, then at each step."""
    return (OWN, *map(step_metric, steps))


def confusion_rows(judged: Judged, steps: Sequence[float]) -> Floats:
    """Return ``(L, T, 16)``: each lesion's cell of the four-class confusion matrix, one-hot, by threshold.

    T: the model's own threshold, then each of ``steps``.
    """
    return judged.rows(lambda scores, point: _confusion_rows(scores, point, steps))


def _confusion_rows(scores: Scores, point: OperatingPoint, steps: Sequence[float]) -> Floats:
    p = CalibrationMap.of(point).probabilities(scores.triage)
    referred = np.stack([scores.triage >= point.threshold, *(p >= step for step in steps)], axis=1)
    decided = np.where(referred, scores.differential[:, None], 0)
    cells = scores.truth[:, None] * len(CLASSES) + decided
    return np.asarray(cells[..., None] == np.arange(len(CLASSES) ** 2), dtype=np.float64)


def draw_sweep(
    site: str,
    judged: Mapping[tuple[str, int], Judged],
    arms: Sequence[str],
    seeds: Sequence[int],
    steps: Sequence[float],
    *,
    resamples: int,
    seed: int | np.random.SeedSequence = 0,
) -> SiteDraws:
    """Return macro-F1 at each threshold of ``judged`` (by arm and seed), and under shared draws of lesions.

    Draws are within each of the four classes, by Rao and Wu's rescaled bootstrap: a class with few lesions is
    in every draw. Macro-F1 is the mean over the classes that the site has. Raises ValueError where there is
    no model at all or two of them judge other lesions.
    """
    if not judged:
        raise ValueError(f"site {site}: no model has judged its lesions")
    truth = next(iter(judged.values())).scores
    for (arm, one), other in judged.items():
        same = np.array_equal(truth.lesion, other.scores.lesion)
        if not same or not np.array_equal(truth.truth, other.scores.truth):
            raise ValueError(f"site {site}: arm {arm} with seed {one} judged other lesions than the others")
    names, shape = sweep_metrics(steps), (len(arms), len(seeds))
    values = {name: np.full(shape, np.nan) for name in names}
    replicates = {name: np.full((*shape, resamples), np.nan) for name in names}
    rows = {key: confusion_rows(one, steps) for key, one in judged.items()}
    for (arm, one), cells in rows.items():
        for name, value in zip(names, _f1(cells.sum(axis=0)), strict=True):
            values[name][arms.index(arm), seeds.index(one)] = value
    done, rng = 0, np.random.default_rng(seed)
    for weights in lesion_weights(truth.truth, resamples, rng, rescaled=True):
        chunk = slice(done, done + len(weights))
        done += len(weights)
        for (arm, one), cells in rows.items():
            drawn = _f1((weights @ cells.reshape(len(cells), -1)).reshape(len(weights), len(names), -1))
            for index, name in enumerate(names):
                replicates[name][arms.index(arm), seeds.index(one), chunk] = drawn[:, index]
    malignant = int(np.count_nonzero(truth.positive))
    return SiteDraws(site, len(truth), malignant, tuple(arms), tuple(seeds), values, replicates)


def _f1(cells: Floats) -> Floats:
    return macro_f1(cells.reshape(*cells.shape[:-1], len(CLASSES), len(CLASSES)))
