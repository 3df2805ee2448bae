"""Does the diagnosis of shift find what changed? A confusion matrix over centres whose shift is known.

Centres are made by ``benchmarks.shift_centres`` and scored by the model of a finished RUN, which trained on
none of their lesions. For every centre a federation of eight (and of four) training sites is drawn from the
unchanged centres, so that the figures do not hang on one federation; a federation and a centre may share a
lesion (one in twenty of a rendered bank), never a device.

    python -m benchmarks.shift RUN                               rendered lesions
    python -m benchmarks.shift RUN --data-root ../shared/data    HAM10000's, through simulated devices
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.shift_centres import (
    PREVALENCES,
    Centre,
    centre_plans,
    real_bank,
    score,
    simulated_bank,
    training_plans,
)
from fedderm.evaluation.counts import counts_of
from fedderm.evaluation.documents import ShiftDiagnosis
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.shift import diagnose
from fedderm.evaluation.shift_reference import ShiftReference, feature_summary, reference_of

VERDICTS = ("neither", "prevalence", "acquisition", "both", "unknown")
LESIONS = 100
TRAINING_LESIONS = {False: 120, True: 60}
"""Calibration lesions of a training site: rendered, real (HAM10000 has fewer malignant ones to spare)."""
SOURCES = ("vidir_modern", "rosendahl")


def reference(centres: Sequence[Centre]) -> ShiftReference:
    """Return what the centres, as training sites, would have their server send."""
    named = {f"site{index}": centre for index, centre in enumerate(centres)}
    return reference_of(
        {
            name: counts_of(Scores(one.triage, one.differential, one.classes, one.lesions))
            for name, one in named.items()
        },
        {name: feature_summary(one.features, one.classes, one.lesions) for name, one in named.items()},
    )


def diagnoses(
    centres: Sequence[Centre], pool: Sequence[Centre], sites: int, seed: int
) -> list[ShiftDiagnosis]:
    """Return each centre's diagnosis against a federation of ``sites`` drawn from ``pool`` without it."""
    found = []
    for index, centre in enumerate(centres):
        rng = np.random.default_rng([seed, sites, index])
        others = [one for one in pool if one is not centre]
        federation = [others[i] for i in rng.choice(len(others), sites, replace=False)]
        found.append(
            diagnose(reference(federation), centre.triage, centre.features, centre.lesions, seed=seed + index)
        )
    return found


def show(title: str, centres: Sequence[Centre], found: Sequence[ShiftDiagnosis]) -> dict[str, dict[str, int]]:
    """Print truth x verdict, by strength, with the rate of each alarm; return the counts."""
    rows: dict[str, Counter[str]] = {}
    for centre, diagnosis in zip(centres, found, strict=True):
        for name in (centre.truth, f"{centre.truth} {centre.strength:g}"):
            row = rows.setdefault(name, Counter())
            row[diagnosis.verdict] += 1
            row["images"] += diagnosis.evidence["acquisition-p"] < 0.05
            reference_prevalence, interval = diagnosis.reference_prevalence, diagnosis.prevalence
            row["share"] += not (interval.lower or 0) <= reference_prevalence <= (interval.upper or 0)
            prevalence = float(np.mean(centre.classes > 0))
            row["covered"] += (interval.lower or 0) <= prevalence <= (interval.upper or 0)
    print(f"\n{title}\n{'truth (strength)':20s}{'n':>5s}" + "".join(f"{v:>12s}" for v in VERDICTS), end="")
    print("   images moved          prevalence moved      true share in its interval")
    for name, row in sorted(rows.items()):
        n = sum(row[verdict] for verdict in VERDICTS)
        rates = "".join(f"   {_rate(row[alarm], n)}" for alarm in ("images", "share", "covered"))
        print(f"{name:20s}{n:5d}" + "".join(f"{row[v]:12d}" for v in VERDICTS) + rates)
    return {name: {key: int(count) for key, count in row.items()} for name, row in rows.items()}


def _rate(hits: int, n: int) -> str:
    lower, upper = wilson(hits, n)
    return f"{hits / n:.2f} [{lower:.2f}, {upper:.2f}]"


def main() -> None:
    """Make the centres, diagnose them, and print the matrices; write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--data-root", type=Path, help="folder that holds ham10000/: real lesions instead")
    parser.add_argument("--work-dir", type=Path, default=Path.home() / ".cache" / "fedderm")
    parser.add_argument("--each", type=int, default=52, help="centres of each truth")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, help="write the counts as JSON")
    arguments = parser.parse_args()
    seed, real = arguments.seed, arguments.data_root is not None
    rng = np.random.default_rng(seed)
    bank = (
        real_bank(arguments.run, arguments.data_root, SOURCES)
        if real
        else simulated_bank(arguments.work_dir, seed)
    )
    training = training_plans(bank, TRAINING_LESIONS[real], rng)
    rows = np.setdiff1d(np.arange(len(bank)), np.concatenate([plan.lesions for plan in training]))
    plans = [*training, *centre_plans(bank, rows, arguments.each, LESIONS, rng)]
    scored = score(plans, bank, arguments.run, seed, arguments.processes)
    centres = scored[len(PREVALENCES) :]
    pool = [*scored[: len(PREVALENCES)], *(one for one in centres if one.truth == "neither")]
    results = {
        str(sites): show(f"{sites} training sites", centres, diagnoses(centres, pool, sites, seed))
        for sites in (8, 4)
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
