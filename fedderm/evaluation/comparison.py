"""Paired comparisons on the same lesions: DeLong, McNemar, a bootstrap of differences, Holm.

DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), computed with midranks in O(N log N) as Sun and Xu,
IEEE Signal Processing Letters 21 (2014). McNemar, Psychometrika 12 (1947), exact. Holm, Scandinavian Journal
of Statistics 6 (1979). DeLong's and McNemar's tests need independent rows: they count lesions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from fedderm.evaluation.counts import UNITS
from fedderm.evaluation.documents import Estimate, OperatingPoint, PairedDecisions, Unit
from fedderm.evaluation.intervals import LEVEL, bootstrap, percentile
from fedderm.evaluation.metrics import METRICS, Scheme, metrics_of
from fedderm.evaluation.scores import Floats, Scores

FEWEST: Final = 10
"""Lesions of either class from which a difference has an interval (a choice)."""


@dataclass(frozen=True)
class DeLong:
    """Two AUCs on the same lesions and their difference, second minus first."""

    first: float
    second: float
    difference: Estimate
    """With its 95 % interval."""
    p_value: float | None
    """Two-sided; None where the difference has no variance."""


def delong_test(first: Scores, second: Scores) -> DeLong:
    """Return DeLong's test of two score sets on the same lesions, one row per lesion.

    Raises ValueError where the sets hold other lesions or truths, or fewer than two of a class.
    """
    one, two = _same_lesions(first, second)
    aucs, covariance = delong_covariance(np.stack([one.triage, two.triage]), one.positive)
    difference = float(aucs[1] - aucs[0])
    error = float(np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    if error < 1e-12:
        return DeLong(float(aucs[0]), float(aucs[1]), Estimate(value=difference), None)
    half = float(norm.ppf((1 + LEVEL) / 2)) * error
    interval = Estimate(
        value=difference, lower=max(-1.0, difference - half), upper=min(1.0, difference + half)
    )
    p_value = float(2 * norm.sf(abs(difference) / error))
    return DeLong(float(aucs[0]), float(aucs[1]), interval, p_value)


def delong_covariance(triage: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return ``(M,)`` AUCs and their ``(M, M)`` covariance for ``(M, N)`` scores of N independent rows.

    Raises ValueError with fewer than two rows of a class.
    """
    m, n = int(np.count_nonzero(positive)), int(np.count_nonzero(~positive))
    if min(m, n) < 2:
        raise ValueError(f"delong: expected two or more of either class, found {m} malignant and {n} benign")
    malignant, benign = triage[:, positive], triage[:, ~positive]
    among_all = rankdata(np.concatenate([malignant, benign], axis=1), axis=1)
    # The share of the other class below each row, ties one half: its rank among all less that among its own.
    won = (among_all[:, :m] - rankdata(malignant, axis=1)) / n
    lost = 1 - (among_all[:, m:] - rankdata(benign, axis=1)) / m
    covariance = np.atleast_2d(np.cov(won)) / m + np.atleast_2d(np.cov(lost)) / n
    return np.asarray(won.mean(axis=1)), np.asarray(covariance)


def paired_decisions(scores: Scores, before: OperatingPoint, after: OperatingPoint) -> PairedDecisions:
    """Return how decisions on lesions differ between two thresholds, with McNemar's exact p value."""
    lesions = scores.per_lesion()
    right, then = ((lesions.triage >= point.threshold) == lesions.positive for point in (before, after))
    only_before, only_after = int(np.count_nonzero(right & ~then)), int(np.count_nonzero(then & ~right))
    return PairedDecisions(
        only_before=only_before, only_after=only_after, p_value=mcnemar_p(only_before, only_after)
    )


def mcnemar_p(only_before: int, only_after: int) -> float | None:
    """Return McNemar's exact two-sided p value from the discordant numbers; None where there are none."""
    if only_before + only_after == 0:
        return None
    return min(1.0, float(mcnemar([[0, only_before], [only_after, 0]], exact=True).pvalue))


def paired_differences(
    first: Scores,
    second: Scores,
    points: tuple[OperatingPoint, OperatingPoint],
    scheme: Scheme,
    *,
    resamples: int,
    seed: int | np.random.SeedSequence,
) -> dict[Unit, dict[str, Estimate]]:
    """Return METRICS of the second less those of the first, with 95 % intervals of a bootstrap of lesions.

    Both see the same draws: two models at their points, or the same scores at two points. No interval where
    no replicate differs or where one is undefined, and none with fewer than FEWEST lesions of a class, where
    a bootstrap is far too narrow. Raises ValueError where the sets hold other lesions.
    """
    lesions, _ = _same_lesions(first, second)
    positive = int(np.count_nonzero(lesions.positive))
    enough = min(positive, len(lesions) - positive) >= FEWEST and resamples > 0
    drawn = [
        bootstrap(scores, point, scheme, resamples, np.random.default_rng(seed)) if enough else None
        for scores, point in zip((first, second), points, strict=True)
    ]
    found: dict[Unit, dict[str, Estimate]] = {}
    for unit in UNITS:
        one, two = (
            metrics_of(scores if unit == "image" else scores.per_lesion(), point, scheme)
            for scores, point in zip((first, second), points, strict=True)
        )
        found[unit] = {
            name: _difference(
                one[name],
                two[name],
                None if drawn[0] is None or drawn[1] is None else drawn[1][unit][name] - drawn[0][unit][name],
            )
            for name in METRICS
        }
    return found


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return p values adjusted for being several, by Holm's method; None stays None and does not count."""
    known = {name: p for name, p in p_values.items() if p is not None}
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    if known:
        found = multipletests(list(known.values()), method="holm")[1]
        adjusted |= dict(zip(known, found.tolist(), strict=True))
    return adjusted


def _difference(first: float | None, second: float | None, replicates: Floats | None) -> Estimate:
    if first is None or second is None:
        return Estimate(value=None)
    if replicates is None or not np.isfinite(replicates).all() or np.ptp(replicates) < 1e-12:
        return Estimate(value=second - first)
    return percentile("difference", second - first, replicates)


def _same_lesions(first: Scores, second: Scores) -> tuple[Scores, Scores]:
    one, two = first.per_lesion(), second.per_lesion()
    if not np.array_equal(one.lesion, two.lesion) or not np.array_equal(one.truth, two.truth):
        raise ValueError(
            f"comparison: expected two score sets of the same lesions and truths, found {len(one)} and "
            f"{len(two)} lesions, {len(np.intersect1d(one.lesion, two.lesion))} in common"
        )
    return one, two
