"""Single runs against an ensemble of them, at the same lesions: AUC with intervals, and DeLong's test.

Held-out sites are told by all their lesions, training sites by their test split.

    python -m benchmarks.ensembles ENSEMBLE... --runs RUN RUN... --data-root ../shared/data
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.claims import told
from fedderm.cli.console import Console
from fedderm.ensemble_point import open_sites
from fedderm.evaluation.comparison import delong_test
from fedderm.evaluation.proportions import auc_interval, wilson
from fedderm.evaluation.scores import Scores
from fedderm.local_site import LocalSite
from fedderm.predictor import Predictor


def scored(site: LocalSite, predictor: Predictor) -> Scores:
    """Return the scores of the lesions by which a site judges, one row each."""
    splits = ("test",) if site.settings.role == "train" else ("calibration", "test")
    parts = [site.score(predictor.model, split, predictor.views, "float32").scores for split in splits]
    return Scores.join(*parts).per_lesion()


def row(name: str, scores: Scores, threshold: float, against: Scores) -> str:
    """Return one model's cells at a site: AUC, sensitivity and specificity, and the test against another."""
    test = delong_test(scores, against)
    positives, negatives = int(scores.positive.sum()), int((~scores.positive).sum())
    low, high = auc_interval(test.first, positives, negatives)
    called = scores.triage >= threshold
    cells = [name, f"{test.first:.3f} [{low:.3f}, {high:.3f}]"]
    for hits in (called[scores.positive], ~called[~scores.positive]):
        low, high = wilson(int(hits.sum()), len(hits))
        cells.append(f"{hits.mean():.3f} [{low:.3f}, {high:.3f}]")
    cells.append("" if scores is against else f"{test.second - test.first:+.3f}, p {test.p_value:.3f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a table for each site: every member, and the ensemble."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("ensemble", type=Path, nargs="+", help="ensembles of the runs")
    arguments.add_argument("--runs", type=Path, nargs="+", required=True)
    arguments.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    asked = arguments.parse_args()
    with Console() as console:
        _, sites = open_sites(asked.runs, asked.data_root, console)
    models = {f"run {number}": Predictor.open(run) for number, run in enumerate(asked.runs, start=1)}
    models |= {f"ensemble {folder.name}": Predictor.open(folder) for folder in asked.ensemble}
    for site in sites:
        found = {name: scored(site, predictor) for name, predictor in models.items()}
        *_, last = found.values()
        lesions, malignant = len(last), int(last.positive.sum())
        print(f"\n{site.settings.name} ({site.settings.role}): {lesions} lesions, {malignant} malignant")
        print("| model | AUC | sensitivity | specificity | the last less this one (DeLong) |")
        print("|---|---|---|---|---|")
        for name, scores in found.items():
            print(row(name, scores, models[name].point.threshold, last))
        singles = [delong_test(found[name], last).first for name in found if name.startswith("run")]
        print(f"runs: mean AUC {np.mean(singles):.3f}, SD {np.std(singles, ddof=1):.3f}", flush=True)


if __name__ == "__main__":
    told(main)
