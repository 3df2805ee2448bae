"""How often 95 % intervals cover the AUC where malignant lesions are few: bootstrap, DeLong, Newcombe.

Binormal scores, benign N(0, 1). DeLong's interval is on the logit scale; a site whose lesions are perfectly
ranked has none, which counts as not covering.

    OMP_NUM_THREADS=1 python -m benchmarks.auc_intervals
"""

import argparse
from itertools import product

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from fedderm.evaluation.comparison import delong_covariance
from fedderm.evaluation.intervals import lesion_weights
from fedderm.evaluation.proportions import auc_interval
from fedderm.evaluation.ranking import auc
from fedderm.evaluation.scores import Floats

SIZES = ((2, 40), (3, 40), (3, 300), (5, 300), (9, 300), (15, 300), (30, 300), (60, 300), (40, 5), (30, 30))
RESAMPLES = 300


def bootstrap_interval(malignant: Floats, benign: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Return the percentile interval, lesions drawn within either class."""
    classes = np.repeat([1, 0], [len(malignant), len(benign)])
    weights = next(lesion_weights(classes, RESAMPLES, rng))
    drawn = auc(malignant, np.sort(benign), weights[:, : len(malignant)], weights[:, len(malignant) :])
    lower, upper = np.quantile(drawn, [0.025, 0.975])
    return float(lower), float(upper)


def delong_interval(malignant: Floats, benign: Floats) -> tuple[float, float]:
    """Return DeLong's interval on the logit scale; an empty one at 0 and 1."""
    positive = np.repeat([True, False], [len(malignant), len(benign)])
    aucs, covariance = delong_covariance(np.concatenate([malignant, benign])[None], positive)
    value, variance = float(aucs[0]), float(covariance[0, 0])
    if not 0 < value < 1:
        return 1.0, 0.0
    half = 1.959964 * variance**0.5 / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))


def coverage(true: float, spread: float, m: int, n: int, sites: int, rng: np.random.Generator) -> Floats:
    """Return the share of simulated sites whose interval holds the AUC, ``(3,)``."""
    distance = norm.ppf(true) * (1 + spread**2) ** 0.5
    covered = np.zeros(3)
    for _ in range(sites):
        malignant, benign = rng.normal(distance, spread, m), rng.normal(0, 1, n)
        value = float((malignant[:, None] > benign).mean())
        found = (
            bootstrap_interval(malignant, benign, rng),
            delong_interval(malignant, benign),
            auc_interval(value, m, n),
        )
        covered += [lower <= true <= upper for lower, upper in found]
    return covered / sites


def main() -> None:
    """Print a Markdown table of coverages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sites", type=int, default=500)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    print("| AUC | SD ratio | malignant | benign | bootstrap | DeLong, logit | Newcombe 5 |")
    print("|---|---|---|---|---|---|---|")
    for true, spread, (m, n) in product((0.7, 0.85, 0.95), (0.6, 1.0, 1.6), SIZES):
        cells = " | ".join(f"{share:.3f}" for share in coverage(true, spread, m, n, asked.sites, rng))
        print(f"| {true} | {spread:g} | {m} | {n} | {cells} |", flush=True)
    print(
        f"\n{asked.sites} sites a row; the standard error at 0.95 is {(0.95 * 0.05 / asked.sites) ** 0.5:.3f}"
    )


if __name__ == "__main__":
    main()
