"""How often a comparison of arms is wrong, and what it finds, for four ways to make intervals and p values.

Centres are drawn anew in every comparison: lesions (each easy or hard for all models, more so for some arms),
and seeds that make an arm better or worse everywhere or at one site. In the null comparisons no arm differs
from the reference; in the others the first one is better at every site by ``GAIN`` of AUC.

- ``both``: fedderm's, seeds and lesions (fedderm/evaluation/seed_variance.py)
- ``one seed``: a paired bootstrap of the lesions of the first seed's models
- ``mean of seeds``: a paired bootstrap of lesions of the mean over seeds
- ``t test``: Student's paired t test over seeds, on the lesions as they are

Columns ``mean of sites`` and ``worst site`` are fedderm's, of three sites at once; a family of their own.

    OMP_NUM_THREADS=1 python -m benchmarks.comparison --comparisons 1000
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt
from typing import Final

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from fedderm.evaluation.arms import MEAN, WORST, places_of
from fedderm.evaluation.documents import OperatingPoint
from fedderm.evaluation.lesion_draws import Judged, SiteDraws, draw_site
from fedderm.evaluation.scores import Floats, Scores
from fedderm.evaluation.seed_variance import SeedMean, mean_over_seeds

METHODS: Final = ("both", "one seed", "mean of seeds", "t test")
AT_ONCE: Final = {"mean of sites": MEAN, "worst site": WORST}
ARMS: Final = ("reference", "first", "second", "third")
GAIN: Final = 0.03
SEPARATION: Final = 1.5
OWN: Final = 0.5
"""Standard deviation of what an arm, and again what a seed, makes of single lesions; the lesions' is 1."""

POINT: Final = OperatingPoint(
    calibration="identity", slope=1, intercept=-0.8, threshold=0.8, threshold_probability=0.5, origin="drawn"
)


@dataclass(frozen=True)
class World:
    """What is drawn: sites of ``malignant`` and three times as many benign lesions, seeds of a spread."""

    seeds: int
    spread: float
    """Standard deviation over seeds of a site's true AUC."""
    malignant: int = 60
    sites: int = 3
    gain: float = 0.0

    @property
    def noise(self) -> float:
        """Return the standard deviation of logits within a class."""
        return sqrt(1 + 2 * OWN**2)

    def separation_for(self, auc: float) -> float:
        """Return the difference of the classes' mean logits that gives an AUC on average over seeds."""
        return float(norm.ppf(auc)) * sqrt(2 * self.noise**2 + self.seed_spread**2)

    @property
    def seed_spread(self) -> float:
        """Return the standard deviation over seeds of that difference."""
        slope = norm.pdf(SEPARATION / (sqrt(2) * self.noise)) / (sqrt(2) * self.noise)
        return self.spread / float(slope)

    @property
    def auc(self) -> float:
        """Return the reference's true AUC, on average over seeds."""
        return float(norm.cdf(SEPARATION / sqrt(2 * self.noise**2 + self.seed_spread**2)))


def comparison(world: World, rng: np.random.Generator, resamples: int) -> list[SiteDraws]:
    """Return the sites of one comparison of ARMS."""
    truth = np.repeat([1, 0], [world.malignant, 3 * world.malignant])
    ids = np.array([f"{index:05d}" for index in range(len(truth))])
    means = np.full(len(ARMS), SEPARATION)
    means[1] = world.separation_for(world.auc + world.gain)
    shape = (len(ARMS), world.seeds)
    everywhere = rng.normal(0, world.seed_spread / sqrt(2), shape)
    found = []
    for site in range(world.sites):
        there = everywhere + rng.normal(0, world.seed_spread / sqrt(2), shape)
        shared = rng.normal(0, 1, len(truth))
        own = rng.normal(0, OWN, (len(ARMS), 1, len(truth))) + rng.normal(0, OWN, (*shape, len(truth)))
        logits = (means[:, None] + there)[..., None] * truth + shared + own
        judged = {
            (arm, seed): Judged(Scores(logits[a, seed], np.ones_like(truth), truth, ids), POINT)
            for a, arm in enumerate(ARMS)
            for seed in range(world.seeds)
        }
        draws = rng.integers(2**32)
        found.append(
            draw_site(
                str(site),
                judged,
                ARMS,
                range(world.seeds),
                metrics=["auc"],
                resamples=resamples,
                seed=int(draws),
            )
        )
    return found


Rows = list[tuple[float, float, float]]
"""(lower, upper, p) of each arm, at one site after the other."""


def verdicts(sites: list[SiteDraws]) -> dict[str, Rows]:
    """Return by method what is said of every arm at every site, and at all sites at once; p after Holm."""
    found: dict[str, Rows] = {name: [] for name in METHODS}
    for site in sites:
        values, drawn = site.values["auc"], site.replicates["auc"]
        for arm in range(1, len(ARMS)):
            apart, replicates = values[arm] - values[0], drawn[arm] - drawn[0]
            for name, one in _methods(apart, replicates, site.fewest):
                found[name].append(one)
    at_once = _adjusted([row for name in AT_ONCE.values() for row in _at_once(sites, name)])
    parts = np.array_split(np.array(at_once), len(AT_ONCE))
    return {name: _adjusted(rows) for name, rows in found.items()} | {
        name: [tuple(row) for row in part.tolist()] for name, part in zip(AT_ONCE, parts, strict=True)
    }


def _at_once(sites: list[SiteDraws], name: str) -> Iterator[tuple[float, float, float]]:
    place = next(one for one in places_of({"held-out": sites}) if one.name == name)
    every = np.ones(len(sites[0].seeds), bool)
    first, first_values, first_drawn = place.mean("auc", ARMS[0], every)
    assert first_drawn is not None
    for arm in ARMS[1:]:
        second, values, drawn = place.mean("auc", arm, every)
        assert drawn is not None
        error = place.error_of("auc", values - first_values, drawn - first_drawn)
        yield _row(replace(error, value=second - first))


def _row(found: SeedMean) -> tuple[float, float, float]:
    return (*(found.interval() or (0.0, 0.0)), found.p_value() or 1.0)


def _methods(
    apart: Floats, replicates: Floats, fewest: int
) -> Iterator[tuple[str, tuple[float, float, float]]]:
    yield "both", _row(mean_over_seeds(apart, replicates, fewest))
    seeds, mean = len(apart), float(apart.mean())
    error = float(apart.std(ddof=1)) / sqrt(seeds)
    for name, value, spread, freedom in (
        ("one seed", float(apart[0]), float(replicates[0].std()), np.inf),
        ("mean of seeds", mean, float(replicates.mean(axis=0).std()), np.inf),
        ("t test", mean, error, seeds - 1),
    ):
        half = float(student.ppf(0.975, freedom)) * spread
        p = float(2 * student.sf(abs(value) / spread, freedom))
        yield name, (value - half, value + half, p)


def _adjusted(rows: Rows) -> Rows:
    """Holm's method by hand: statsmodels' collects garbage at every call, which takes twice the rest."""
    p = np.array([row[2] for row in rows])
    order = np.argsort(p)
    holm = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    found = np.empty_like(p)
    found[order] = holm
    return [(lower, upper, float(q)) for (lower, upper, _), q in zip(rows, found, strict=True)]


@dataclass(frozen=True)
class Shares:
    """Of the comparisons of one world: by method."""

    covered: dict[str, float]
    """Intervals of arms that do not differ which hold 0."""
    false_claims: dict[str, float]
    """Comparisons in which any arm that does not differ is said to, after Holm: the family-wise error."""
    found: dict[str, float]
    """Sites at which the better arm is said to be better, after Holm (of a world with a gain)."""


def shares(world: World, comparisons: int, resamples: int, seed: int) -> Shares:
    """Return how often each method is right over many comparisons."""
    rng = np.random.default_rng(seed)
    null_arms = len(ARMS) - 1 if world.gain == 0 else len(ARMS) - 2
    first_null = len(ARMS) - 1 - null_arms
    covered = dict.fromkeys((*METHODS, *AT_ONCE), 0.0)
    wrong, right = dict(covered), dict(covered)
    for _ in range(comparisons):
        for name, rows in verdicts(comparison(world, rng, resamples)).items():
            by_site = np.array(rows).reshape(-1, len(ARMS) - 1, 3)
            null = by_site[:, first_null:]
            covered[name] += float(((null[..., 0] <= 0) & (null[..., 1] >= 0)).mean())
            wrong[name] += bool((null[..., 2] < 0.05).any())
            if world.gain:
                right[name] += float(((by_site[:, 0, 2] < 0.05) & (by_site[:, 0, 0] > 0)).mean())
    return Shares(*({k: v / comparisons for k, v in one.items()} for one in (covered, wrong, right)))


def main() -> None:
    """Print a table of error rates and one of power."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comparisons", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=400)
    asked = parser.parse_args()
    print("| seeds | SD over seeds | malignant | | " + " | ".join((*METHODS, *AT_ONCE)) + " |")
    print("|---|---|---|---" + "|---" * (len(METHODS) + len(AT_ONCE)) + "|")
    for malignant, spreads in ((60, (0.0, 0.01, 0.02)), (15, (0.01,))):
        for spread in spreads:
            for seeds in (3, 5, 10):
                _print(World(seeds, spread, malignant), asked.comparisons, asked.resamples)
    print(
        f"\n{asked.comparisons} comparisons a row of {len(ARMS) - 1} arms with a reference at 3 sites; "
        f"standard error of a share of 0.05: {sqrt(0.05 * 0.95 / asked.comparisons):.3f}; gain {GAIN} of AUC."
    )


def _print(world: World, comparisons: int, resamples: int) -> None:
    null = shares(world, comparisons, resamples, seed=world.seeds)
    better = shares(
        World(world.seeds, world.spread, world.malignant, gain=GAIN), max(1, comparisons // 4), resamples, 1
    )
    start = f"| {world.seeds} | {world.spread:g} | {world.malignant} |"
    for title, row in (("covers", null.covered), ("claims", null.false_claims), ("finds", better.found)):
        print(f"{start} {title} | " + " | ".join(f"{share:.3f}" for share in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
