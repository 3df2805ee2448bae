"""Which of a grid's values an arm is told with: chosen on calibration lesions, whatever the test says."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from comparison_folders import Arm, Plan, write_comparison

from fedderm.comparison.choice import choices_of
from fedderm.comparison.outcomes import read_comparison
from fedderm.comparison.results import results_of
from fedderm.comparison.tables import write_tables
from fedderm.counts_file import write_counts
from fedderm.evaluation.counts import Counts, counts_of
from fedderm.evaluation.scores import Scores
from fedderm.report.comparison_page import write_page

ARMS = (
    "all, learning_rate 0.1",
    "all, learning_rate 0.2",
    "heads, learning_rate 0.1",
    "heads, learning_rate 0.2",
)
SITES = {"west": ("train", 60, 20, 1.0), "east": ("train", 60, 20, 1.0), "away": ("held-out", 60, 20, 1.0)}


def calibration(discordant: int) -> Counts:
    """4 malignant and 5 benign lesions, of whose 20 pairs so many are in the wrong order: AUC 1 - d / 20."""
    triage = np.array([1.0, 1.0, 1.0, 1.0, *[2.0] * (discordant // 4), *[0.0] * (5 - discordant // 4)])
    truth = np.repeat([1, 0], [4, 5])
    return counts_of(Scores(triage, np.ones(9, int), truth, np.array([f"{i}" for i in range(9)])))


def written(root: Path, wrong: dict[str, tuple[int, int]], **section: object) -> Path:
    """Write a comparison; ``wrong``: by arm the discordant pairs at west and at east, of every seed."""
    # On the test lesions 0.1 is far better in both arms.
    arms = {arm: Arm(gain=2.0 if arm.endswith("0.1") else 0.0) for arm in ARMS}
    folder = write_comparison(root, Plan(arms=arms, sites=SITES, seeds=(1, 2), reference=ARMS[0]))
    document = yaml.safe_load((folder / "config.yaml").read_text())
    document["compare"] |= {"arms": {"all": {}, "heads": {}}, **section}
    document["compare"]["grid"] = {"training.learning_rate": [0.1, 0.2]}
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    for cell in read_comparison(folder).done:
        west, east = wrong[cell.arm]
        (cell.path / "evaluation").mkdir()
        counts = {"west/calibration": calibration(west), "east/calibration": calibration(east)}
        # Those of a held-out site choose nothing, however good.
        write_counts(cell.path / "evaluation" / "counts.npz", {**counts, "away/calibration": calibration(0)})
    return folder


def test_values_are_chosen_on_calibration_lesions_and_not_on_the_tests(tmp_path: Path) -> None:
    """Means of two sites: all 0.1 has (0.8 + 0.6) / 2, all 0.2 (1 + 0.6) / 2; heads tie: the first wins."""
    wrong = dict(zip(ARMS, [(4, 8), (0, 8), (4, 4), (4, 4)], strict=True))
    folder = written(tmp_path / "comparison", wrong)
    results = results_of(read_comparison(folder))
    write_tables(results)
    table = pd.read_csv(folder / "results" / "choice.csv")
    assert table["with_values"].tolist() == list(ARMS)
    assert table["calibration_auc"].tolist() == pytest.approx([0.7, 0.8, 0.8, 0.8], abs=1e-6)
    assert table["chosen"].tolist() == [False, True, True, False]
    assert (table["lesions"] == 18).all()
    best_on_test = results.models.mean(ARMS[0], results.models.places[0]).estimate.value
    assert best_on_test > results.models.mean(ARMS[1], results.models.places[0]).estimate.value
    page = write_page(results).read_text(encoding="utf-8")
    assert "Values of the grid" in page
    assert page.count("<td>chosen</td>") == 2
    told = (folder / "results" / "conclusions.txt").read_text(encoding="utf-8")
    assert f"Of the grid, calibration lesions choose {ARMS[1]} and {ARMS[2]}, before" in told


def test_without_a_grid_or_with_folds_nothing_is_chosen(tmp_path: Path) -> None:
    wrong = dict.fromkeys(ARMS, (0, 0))
    folder = written(tmp_path / "folds", wrong, protocol="lesion_folds")
    assert choices_of(read_comparison(folder)) == []
    plain = write_comparison(
        tmp_path / "plain", Plan(arms={"one": Arm(), "two": Arm()}, sites=SITES, seeds=(1,), reference="one")
    )
    assert choices_of(read_comparison(plain)) == []


def test_a_cell_without_calibration_counts_is_not_chosen(tmp_path: Path) -> None:
    folder = written(tmp_path / "older", dict.fromkeys(ARMS, (4, 4)))
    for cell in read_comparison(folder).done:
        if cell.arm.startswith("heads"):
            (cell.path / "evaluation" / "counts.npz").unlink()
    chosen = [one.label for one in choices_of(read_comparison(folder)) if one.chosen]
    assert chosen == [ARMS[0]]
