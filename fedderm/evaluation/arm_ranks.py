"""Ranks of arms over sites and seeds, and which site is how often the worst.

Average ranks are Demsar's (JMLR 7 (2006) 1-30), 1 for the best. His Friedman test and critical difference
need blocks that are independent; seeds at one site share its lesions, and sites share the seed's model, so
the intervals are those of ``seed_variance`` instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from fedderm.evaluation.comparison import FEWEST
from fedderm.evaluation.documents import Estimate
from fedderm.evaluation.lesion_draws import SiteDraws
from fedderm.evaluation.seed_variance import mean_over_seeds


@dataclass(frozen=True)
class ArmRank:
    """An arm's average rank by AUC over the sites of a role and the seeds that all ranked arms have."""

    arm: str
    role: str
    estimate: Estimate
    arms: int
    sites: int
    seeds: int


def arm_ranks(draws: Mapping[str, Sequence[SiteDraws]], arms: Sequence[str]) -> list[ArmRank]:
    """Return the average ranks of ``arms`` by role, the best first.

    Sites with fewer lesions of a class than FEWEST are left out, and so is a seed that one of the arms lacks
    at one of the sites. A role without a site or seed left has no ranks, nor has a single arm.
    """
    return [rank for role, sites in draws.items() for rank in _ranks(role, sites, arms)]


def _ranks(role: str, sites: Sequence[SiteDraws], arms: Sequence[str]) -> list[ArmRank]:
    counted = [one for one in sites if one.fewest >= FEWEST]
    if not counted or len(arms) < 2:
        return []
    rows = [counted[0].arms.index(arm) for arm in arms]
    values = np.stack([one.values["auc"][rows] for one in counted])  # (K, A, S)
    seeds = np.isfinite(values).all(axis=(0, 1))
    if not seeds.any():
        return []
    ranks = rankdata(-values[:, :, seeds], axis=1).mean(axis=0)
    drawn = np.mean(
        [rankdata(-one.replicates["auc"][rows][:, seeds], axis=0) for one in counted], axis=0
    )  # (A, S, B)
    found = []
    for arm, rank, replicates in zip(arms, ranks, drawn, strict=True):
        mean = mean_over_seeds(rank, replicates, min(one.fewest for one in counted))
        ends = mean.interval()
        limits = {} if ends is None else {"lower": max(1.0, ends[0]), "upper": min(len(arms), ends[1])}
        estimate = Estimate(value=mean.value, **limits)
        found.append(ArmRank(arm, role, estimate, len(arms), len(counted), int(seeds.sum())))
    return sorted(found, key=lambda one: one.estimate.value or 0.0)


def share_of_worst(sites: Sequence[SiteDraws], arm: str, seed: int = 0) -> dict[str, float]:
    """Return how often each site has the arm's lowest mean AUC when seeds and lesions are drawn anew.

    Both are drawn with replacement (Owen 2007). Empty with fewer than two sites that have FEWEST lesions of
    either class, or without a seed that they all have.
    """
    counted = [one for one in sites if one.fewest >= FEWEST]
    if len(counted) < 2:
        return {}
    values = np.stack([one.of("auc", arm)[0] for one in counted])
    seeds = np.flatnonzero(np.isfinite(values).all(axis=0))
    if not len(seeds):
        return {}
    replicates = np.stack([one.of("auc", arm)[1][seeds] for one in counted])  # (K, S, B)
    drawn = np.random.default_rng(seed).multinomial(
        len(seeds), np.full(len(seeds), 1 / len(seeds)), size=replicates.shape[-1]
    )
    means = np.einsum("ksb,bs->kb", replicates, drawn / len(seeds))
    times = np.bincount(means.argmin(axis=0), minlength=len(counted))
    return {one.site: float(n / times.sum()) for one, n in zip(counted, times, strict=True)}
