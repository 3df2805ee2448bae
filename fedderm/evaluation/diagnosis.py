"""The head of diagnoses: confusion matrices that add up, F1 by diagnosis, and what a small cell hides.

F1 of a diagnosis: ``2 TP / (2 TP + FP + FN)``; macro-F1 is its mean over the diagnoses that are there. A
lesion's probabilities are the means over its images (Rashid et al., 2026, pool folds and compare macro-F1).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from fedderm.evaluation.documents import Estimate, SiteEvaluation, Unit
from fedderm.evaluation.head_documents import DiagnosisEvaluation, DiagnosisPerformance
from fedderm.evaluation.intervals import lesion_weights, percentile
from fedderm.evaluation.metrics import macro_f1
from fedderm.evaluation.scores import Floats, Ints


class Named(NamedTuple):
    """Diagnoses of N images or lesions, true and told."""

    truth: Ints
    """``(N,)`` index among K."""
    told: Ints
    """``(N,)`` the likeliest."""
    lesion: NDArray[np.str_]
    """``(N,)`` lesion ids."""


def named_images(logits: Floats, labels: Ints, lesions: NDArray[np.str_]) -> Named:
    """Return the images (N,) that have a label: ``logits`` (N, K), ``labels`` (N,) with -1 for none."""
    known = labels >= 0
    return Named(labels[known], logits[known].argmax(axis=1), lesions[known])


class LesionShares(NamedTuple):
    """Mean probabilities of L lesions."""

    lesion: NDArray[np.str_]
    """``(L,)`` ids, sorted."""
    truth: Ints
    """``(L,)`` index among K."""
    probability: Floats
    """``(L, K)`` the means over a lesion's images."""

    def named(self) -> Named:
        """Return the lesions with their likeliest diagnosis."""
        return Named(self.truth, self.probability.argmax(axis=1), self.lesion)


def lesion_shares(logits: Floats, labels: Ints, lesions: NDArray[np.str_]) -> LesionShares:
    """Return the mean probabilities of the lesions that have a label: ``logits`` (N, K), ``labels`` (N,)."""
    known = labels >= 0
    ids, first, place, sizes = np.unique(
        lesions[known], return_index=True, return_inverse=True, return_counts=True
    )
    summed = np.zeros((len(ids), logits.shape[1]))
    np.add.at(summed, place, softmax(logits[known], axis=1))
    return LesionShares(ids, labels[known][first], summed / sizes[:, None])


def evaluate_diagnoses(
    splits: Mapping[str, tuple[Floats, Ints, NDArray[np.str_]]],
    names: Sequence[str],
    resamples: int,
    seed: np.random.SeedSequence,
    min_cell: int = 0,
) -> DiagnosisEvaluation:
    """Return what the head says of each split's images and lesions: (logits, labels, lesion ids) by split.

    95 % intervals are of ``resamples`` draws of lesions with all their images, within each diagnosis; none
    for 0. Images and lesions share the draws.
    """
    found: dict[str, dict[Unit, DiagnosisPerformance]] = {}
    for (split, given), own in zip(splits.items(), seed.spawn(len(splits)), strict=True):
        lesions, images = lesion_shares(*given).named(), named_images(*given)
        visible = np.bincount(lesions.truth, minlength=len(names)) >= max(min_cell, 1)
        kept = _keep(lesions, visible)
        units: dict[Unit, Named] = {"image": _keep(images, visible), "lesion": kept}
        owners = {unit: np.searchsorted(kept.lesion, one.lesion) for unit, one in units.items()}
        shown = {unit: merged(one, len(names), min_cell) for unit, one in units.items()}
        drawn = _drawn(shown, owners, kept.truth, len(names), resamples, np.random.default_rng(own))
        found[split] = {
            unit: performance_of(confusion_of(one, len(names)), names, drawn[unit])
            for unit, one in shown.items()
        }
    return DiagnosisEvaluation(names=list(names), splits=found)


def confusion_of(named: Named, number: int) -> Ints:
    """Return the confusion matrix ``(K, K)``, rows true."""
    flat = np.bincount(named.truth * number + named.told, minlength=number**2)
    return flat.reshape(number, number).astype(np.int64)


def merged(named: Named, number: int, min_cell: int) -> Named:
    """Return units whose confusion matrix has no cell above 0 and below ``min_cell``.

    Row by row small wrong cells join the largest wrong one. Where all wrong ones together are still few,
    right ones are told as wrong until they are ``min_cell``, and all where few right ones would be left: what
    is hidden counts against the model. Which unit is moved follows from the lesions' ids alone. Diagnoses
    with fewer lesions have been left out before.
    """
    if min_cell <= 1:
        return named
    told, order = named.told.copy(), np.argsort(named.lesion, kind="stable")
    for truth, row in enumerate(confusion_of(named, number)):
        wrong = np.where(np.arange(number) == truth, -1, row)
        place, own = int(wrong.argmax()), named.truth == truth
        small = (wrong > 0) & (wrong < min_cell)
        told[own & small[named.told]] = place
        away, right = int(row.sum() - row[truth]), int(row[truth])
        short = max(0, min_cell - away) if away else 0
        if right - short < min_cell:
            short = right
        told[order[(own & (named.told == truth))[order]][:short]] = place
    return named._replace(told=told)


def performance_of(confusion: Ints, names: Sequence[str], drawn: Floats | None) -> DiagnosisPerformance:
    """Return the numbers of a confusion matrix ``(K, K)``, with intervals of those ``drawn`` (B, K, K)."""
    values = summary(confusion.astype(float))
    replicates = {} if drawn is None or not confusion.any() else summary(drawn)
    estimates = [
        {
            name: _estimate(float(values[kind][place]), replicates.get(kind), place)
            for place, name in enumerate(labels)
        }
        for kind, labels in (("f1", names), ("overall", ("macro_f1", "accuracy")))
    ]
    return DiagnosisPerformance(
        n=int(confusion.sum()), confusion=confusion.tolist(), f1=estimates[0], **estimates[1]
    )


def summary(confusion: Floats) -> dict[str, Floats]:
    """Return ``f1`` (..., K) and ``overall`` (..., 2), macro-F1 and accuracy, of matrices (..., K, K).

    NaN where no unit has the diagnosis, or there is none at all.
    """
    row, column = confusion.sum(axis=-1), confusion.sum(axis=-2)
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        f1 = np.where(row > 0, 2 * hit / (row + column), np.nan)
        overall = np.stack([macro_f1(confusion), hit.sum(axis=-1) / row.sum(axis=-1)], axis=-1)
    return {"f1": f1, "overall": overall}


def pool_performance(
    parts: Sequence[DiagnosisPerformance], names: Sequence[str], resamples: int, seed: np.random.SeedSequence
) -> DiagnosisPerformance:
    """Return the numbers of several sites' lesions together: their confusion matrices added up.

    One count is one lesion, so that drawing each row's counts again is the bootstrap of lesions within each
    diagnosis; no site has to say more.
    """
    confusion = np.sum([one.confusion for one in parts], axis=0).astype(np.int64)
    drawn = draw_rows(confusion, resamples, np.random.default_rng(seed)) if resamples else None
    return performance_of(confusion, names, drawn)


def pool_diagnoses(
    sites: Sequence[SiteEvaluation], names: Sequence[str], resamples: int, seed: np.random.SeedSequence
) -> DiagnosisEvaluation | None:
    """Return the pools of the sites' test splits by role; None where no site has a head of diagnoses."""
    by_role: dict[str, list[DiagnosisPerformance]] = {}
    for site in sites:
        if site.diagnosis_head is not None and "test" in site.diagnosis_head.splits:
            by_role.setdefault(site.role, []).append(site.diagnosis_head.splits["test"]["lesion"])
    if not by_role:
        return None
    seeds = dict(zip(by_role, seed.spawn(len(by_role)), strict=True))
    return DiagnosisEvaluation(
        names=list(names),
        splits={
            role: {"lesion": pool_performance(parts, names, resamples, seeds[role])}
            for role, parts in by_role.items()
        },
    )


def draw_rows(confusion: Ints, resamples: int, rng: np.random.Generator) -> Floats:
    """Return ``(resamples, K, K)`` matrices whose rows are drawn as often as they count."""
    totals = confusion.sum(axis=1)
    shares = confusion / np.maximum(totals, 1)[:, None]
    shares[totals == 0] = 1 / len(totals)
    return np.stack(
        [rng.multinomial(n, share, size=resamples) for n, share in zip(totals, shares, strict=True)], axis=1
    ).astype(float)


def _keep(named: Named, visible: NDArray[np.bool_]) -> Named:
    rows = visible[named.truth]
    return Named(named.truth[rows], named.told[rows], named.lesion[rows])


def _drawn(
    units: Mapping[Unit, Named],
    owners: Mapping[Unit, NDArray[np.intp]],
    classes: Ints,
    number: int,
    resamples: int,
    rng: np.random.Generator,
) -> dict[Unit, Floats | None]:
    """Return each unit's confusion matrices ``(resamples, K, K)`` under shared draws of lesions."""
    if not resamples or not len(classes):
        return dict.fromkeys(units)
    cells: dict[Unit, Floats] = {}
    for unit, one in units.items():
        cells[unit] = np.zeros((len(classes), number**2))
        np.add.at(cells[unit], (owners[unit], one.truth * number + one.told), 1)
    parts: dict[Unit, list[Floats]] = {unit: [] for unit in units}
    for weights in lesion_weights(classes, resamples, rng):
        for unit, counted in cells.items():
            parts[unit].append(weights @ counted)
    return {unit: np.concatenate(found).reshape(-1, number, number) for unit, found in parts.items()}


def _estimate(value: float, replicates: Floats | None, place: int) -> Estimate:
    if not np.isfinite(value):
        return Estimate(value=None)
    drawn = None if replicates is None else replicates[:, place]
    # Draws that do not differ (all right, or a single lesion) say nothing of the uncertainty.
    if drawn is None or np.ptp(drawn) < 1e-12:
        return Estimate(value=value)
    return percentile("f1", value, drawn)
