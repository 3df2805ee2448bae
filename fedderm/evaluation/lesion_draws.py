"""Metrics of many models on the same lesions of a site, and the same metrics under shared draws of lesions.

A comparison has one model for each arm (a strategy with its hyperparameters) and seed of training. All of
them judge the same lesions, so all of them see the same draws: what the lesions contribute to a difference of
two arms is then only what the two judge differently.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from fedderm.evaluation.documents import OperatingPoint
from fedderm.evaluation.intervals import lesion_weights
from fedderm.evaluation.metrics import row_statistics, summarise
from fedderm.evaluation.ranking import auc
from fedderm.evaluation.scores import Floats, Scores

COMPARED: Final = (
    "auc",
    "balanced_accuracy",
    "accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "f1",
    "ece",
)
"""Metrics of a comparison; decisions and probabilities are those of each cell's own federation point."""

RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Judged:
    """One model's scores of a site's lesions, one row a lesion sorted by id, and its operating point."""

    scores: Scores
    point: OperatingPoint
    folds: "tuple[Judged, ...]" = ()
    """Of cross-validation: what each fold's model says of its own lesions, at its own point."""

    @classmethod
    def of_folds(cls, folds: "Sequence[Judged]") -> Self:
        """Return several models' scores of disjoint lesions as one; raises ValueError for a lesion in two."""
        joined = Scores.join(*(one.scores for one in folds))
        scores = joined.per_lesion()
        if len(scores) < len(joined):
            raise ValueError("a lesion was tested in two folds; cells of one comparison share their splits")
        return cls(scores, folds[0].point, tuple(folds))

    def rows(self, function: Callable[[Scores, OperatingPoint], Floats]) -> Floats:
        """Return ``function``'s rows ``(L, ...)`` in the order of ``scores``, each fold at its own point."""
        if not self.folds:
            return function(self.scores, self.point)
        found = np.concatenate([function(one.scores, one.point) for one in self.folds])
        return found[np.argsort(np.concatenate([one.scores.lesion for one in self.folds]))]


@dataclass(frozen=True, eq=False)
class SiteDraws:
    """What every arm and seed makes of one site's lesions; A arms, S seeds, B draws of lesions."""

    site: str
    lesions: int
    malignant: int
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Mapping[str, Floats]
    """By metric ``(A, S)``; NaN where there is no such model or a class is absent."""
    replicates: Mapping[str, Floats]
    """By metric ``(A, S, B)``: the values under the same B draws of lesions."""

    @property
    def fewest(self) -> int:
        """Return the lesions of the rarer class."""
        return min(self.malignant, self.lesions - self.malignant)

    def of(self, metric: str, arm: str) -> tuple[Floats, Floats]:
        """Return an arm's ``(S,)`` values and ``(S, B)`` replicates."""
        row = self.arms.index(arm)
        return self.values[metric][row], self.replicates[metric][row]


def draw_site(
    site: str,
    judged: Mapping[tuple[str, int], Judged],
    arms: Sequence[str],
    seeds: Sequence[int],
    *,
    metrics: Sequence[str] = COMPARED,
    resamples: int = RESAMPLES,
    seed: int | np.random.SeedSequence = 0,
) -> SiteDraws:
    """Return ``metrics`` of ``judged`` (by arm and seed) at a site, and under shared draws of its lesions.

    Draws are within malignant and within benign lesions, by Rao and Wu's rescaled bootstrap. Raises
    ValueError where there is no model at all or two of them judge other lesions.
    """
    truth = _one_truth(site, judged)
    lesions, malignant = len(truth), int(np.count_nonzero(truth.positive))
    shape = (len(arms), len(seeds))
    values = {name: np.full(shape, np.nan) for name in metrics}
    replicates = {name: np.full((*shape, resamples), np.nan) for name in metrics}
    classes, rng, done = truth.positive.astype(np.int64), np.random.default_rng(seed), 0
    sorted_rows = {key: _Sorted(one, metrics) for key, one in judged.items()}
    for (arm, one), rows in sorted_rows.items():
        for name, value in rows.metrics(np.ones((1, lesions))).items():
            values[name][arms.index(arm), seeds.index(one)] = value[0]
    for weights in lesion_weights(classes, resamples, rng, rescaled=True):
        chunk = slice(done, done + len(weights))
        done += len(weights)
        for (arm, one), rows in sorted_rows.items():
            for name, value in rows.metrics(weights).items():
                replicates[name][arms.index(arm), seeds.index(one), chunk] = value
    return SiteDraws(site, lesions, malignant, tuple(arms), tuple(seeds), values, replicates)


class _Sorted:
    """One model's rows, sorted once for all weightings."""

    def __init__(self, judged: Judged, metrics: Sequence[str]) -> None:
        scores = judged.scores
        self._metrics = metrics
        order = np.argsort(scores.triage, kind="stable")
        positive = scores.positive[order]
        self._positive, self._negative = order[positive], order[~positive]
        self._sides = scores.triage[self._positive], scores.triage[self._negative]
        self._statistics = (
            None
            if tuple(metrics) == ("auc",)
            else judged.rows(lambda rows, point: row_statistics(rows, point, "binary"))
        )

    def metrics(self, weights: Floats) -> dict[str, Floats]:
        """Return the metrics, each ``(b,)``, for ``(b, L)`` weights."""
        found = {"auc": auc(*self._sides, weights[:, self._positive], weights[:, self._negative])}
        if self._statistics is not None:
            found |= summarise(weights @ self._statistics, "binary")
        return {name: found[name] for name in self._metrics}


def _one_truth(site: str, judged: Mapping[tuple[str, int], Judged]) -> Scores:
    if not judged:
        raise ValueError(f"site {site}: no model has judged its lesions")
    (first, one), *rest = judged.items()
    for key, other in rest:
        same = np.array_equal(one.scores.lesion, other.scores.lesion) and np.array_equal(
            one.scores.positive, other.scores.positive
        )
        if not same:
            raise ValueError(
                f"site {site}: arm {key[0]} with seed {key[1]} and arm {first[0]} with seed {first[1]} "
                f"judged other lesions ({len(other.scores)} and {len(one.scores)}); cells of one comparison "
                "share their sites and splits"
            )
    return one.scores
