"""Seconds of a lesion bootstrap of all metrics, beside a plain loop over scikit-learn and statsmodels.

The loop draws the same lesions and computes the same metrics, image and lesion level, on fewer resamples; its
time is scaled up. Seconds are of the processor, one thread, so that a busy machine does not blur them.

    OMP_NUM_THREADS=1 python -m benchmarks.bootstrap
"""

import argparse
import time
import warnings

import numpy as np
import statsmodels.api as sm
from sklearn import metrics as sk

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.documents import OperatingPoint
from fedderm.evaluation.intervals import bootstrap, lesion_weights
from fedderm.evaluation.scores import Scores

MAP = CalibrationMap("platt", 1.3, -0.4)
POINT = OperatingPoint(
    **MAP.fields(), threshold=-0.5, threshold_probability=0.25, origin="chosen for the benchmark"
)


def simulated(lesions: int, images: int, seed: int) -> Scores:
    """Return a site with a quarter of malignant lesions, images of one lesion alike."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(lesions) < 0.25, rng.integers(1, 4, lesions), 0)
    owner = np.concatenate([np.arange(lesions), rng.integers(0, lesions, images - lesions)])
    means = np.where(truth > 0, 1.0, -1.0) + rng.normal(0, 1, lesions)
    return Scores(
        means[owner] + rng.normal(0, 0.4, images), rng.integers(1, 4, images), truth[owner], owner.astype(str)
    )


def of_rows(scores: Scores) -> dict[str, float]:
    """Return what scikit-learn and statsmodels say of one resample, beside the equal-mass ECE by hand."""
    y, x = scores.positive, MAP.logits(scores.triage)
    p, called = MAP.probabilities(scores.triage), scores.triage >= POINT.threshold
    decided = np.where(called, scores.differential, 0)
    width = np.minimum((p * 15).astype(int), 14)
    order = np.argsort(p)
    family = sm.families.Binomial()
    return {
        "auc": sk.roc_auc_score(y, scores.triage),
        "average_precision": sk.average_precision_score(y, scores.triage),
        "sensitivity": sk.recall_score(y, called),
        "specificity": sk.recall_score(~y, ~called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "macro_f1": sk.f1_score(scores.truth, decided, average="macro"),
        "ece": float(np.abs(np.bincount(width, p - y, 15)).sum() / len(y)),
        "ece_mass": float(sum(abs(part.sum()) for part in np.array_split((p - y)[order], 15)) / len(y)),
        "brier": sk.brier_score_loss(y, p),
        "calibration_slope": float(sm.GLM(y, sm.add_constant(x), family=family).fit().params[1]),
        "calibration_intercept": float(sm.GLM(y, np.ones(len(y)), family=family, offset=x).fit().params[0]),
        "referrals_per_1000": 1000 * float(called.mean()),
    }


def loop(scores: Scores, resamples: int, seed: int) -> list[dict[str, dict[str, float]]]:
    """Return each resample's metrics of images and of lesions, one resample after the other."""
    lesions = scores.per_lesion()
    owner = np.searchsorted(lesions.lesion, scores.lesion)
    found = []
    for weights in lesion_weights(lesions.truth, resamples, np.random.default_rng(seed)):
        for row in weights.astype(np.intp):
            images = scores.take(np.repeat(np.arange(len(scores)), row[owner]))
            whole = lesions.take(np.repeat(np.arange(len(lesions)), row))
            found.append({"image": of_rows(images), "lesion": of_rows(whole)})
    return found


def main() -> None:
    """Print seconds, their ratio and the largest disagreement of the two, metric by metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lesions", type=int, default=5000)
    parser.add_argument("--images", type=int, default=6500)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--loop-resamples", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    scores = simulated(asked.lesions, asked.images, 0)
    # F1 and GLM warn where a resample lacks a class or converges slowly; the numbers are compared below.
    warnings.simplefilter("ignore")
    ours, theirs = [], []
    for repeat in range(asked.repeats):
        # Side by side, so that both meet the same load of the machine.
        start = time.process_time()
        drawn = bootstrap(scores, POINT, "cascade", asked.resamples, np.random.default_rng(repeat))
        middle = time.process_time()
        plain = loop(scores, asked.loop_resamples, repeat)
        ours.append(middle - start)
        theirs.append((time.process_time() - middle) * asked.resamples / asked.loop_resamples)
    print(f"{asked.lesions} lesions, {asked.images} images; {asked.resamples} resamples, CPU seconds")
    for name, seconds in (("fedderm", ours), (f"plain loop ({asked.loop_resamples} run, scaled)", theirs)):
        print(f"{name:32s} {min(seconds):8.1f} s  (all: {', '.join(f'{one:.1f}' for one in seconds)})")
    print(f"{'ratio of the fastest':32s} {min(theirs) / min(ours):8.0f}")
    same = bootstrap(
        scores, POINT, "cascade", asked.loop_resamples, np.random.default_rng(asked.repeats - 1)
    )["lesion"]
    for name in plain[0]["lesion"]:
        apart = np.abs(same[name] - [one["lesion"][name] for one in plain]).max()
        print(f"  {name:24s} largest difference in a resample {apart:.1e}")
    assert set(drawn["lesion"]) == set(plain[0]["lesion"])


if __name__ == "__main__":
    main()
