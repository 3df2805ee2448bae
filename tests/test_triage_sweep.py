"""Macro-F1 of the four-class decision by triage threshold, and pairs of arms, in a comparison."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from comparison_folders import Arm, Plan, write_comparison
from sklearn.metrics import f1_score

from fedderm.comparison import build_comparison
from fedderm.evaluation.documents import OperatingPoint
from fedderm.evaluation.lesion_draws import Judged
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.triage_sweep import draw_sweep

SLOPE = 2.0
POINT = OperatingPoint.model_validate(
    {
        "calibration": "platt",
        "slope": SLOPE,
        "intercept": -0.5,
        "threshold": 0.25,
        "threshold_probability": 0.5,
        "origin": "drawn",
    }
)


def judged(seed: int, lesions: int = 240) -> Judged:
    """Scores whose triage and differentiation are right more often than not."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2, 3], [lesions // 2, lesions // 4, lesions // 12, lesions // 6])
    differential = np.where(rng.random(len(truth)) < 0.7, truth.clip(min=1), rng.integers(1, 4, len(truth)))
    triage = 1.5 * (truth > 0) - 0.7 + rng.normal(0, 1, len(truth))
    return Judged(Scores(triage, differential, truth, np.arange(len(truth)).astype(str)).per_lesion(), POINT)


def test_each_step_is_scikit_learns_macro_f1_of_that_decision() -> None:
    one = judged(1)
    drawn = draw_sweep("vienna", {("cascade", 1): one}, ["cascade"], [1], [0.2, 0.6], resamples=20)
    p = 1 / (1 + np.exp(-(SLOPE * one.scores.triage - 0.5)))
    for name, referred in (
        ("macro_f1", one.scores.triage >= 0.25),
        ("macro_f1 at 0.2", p >= 0.2),
        ("macro_f1 at 0.6", p >= 0.6),
    ):
        decided = np.where(referred, one.scores.differential, 0)
        expected = f1_score(one.scores.truth, decided, average="macro")
        assert drawn.of(name, "cascade")[0][0] == pytest.approx(expected, abs=1e-12)


def test_draws_keep_every_class_and_vary_as_lesions_do() -> None:
    one = judged(2)
    rare = one.scores.truth != 2
    rare[np.flatnonzero(one.scores.truth == 2)[0]] = True  # a single SCC: in every draw
    few = Judged(one.scores.take(rare), POINT)
    drawn = draw_sweep("vienna", {("cascade", 1): few}, ["cascade"], [1], [0.5], resamples=300)
    replicates = drawn.replicates["macro_f1 at 0.5"][0, 0]
    assert np.isfinite(replicates).all()
    assert replicates.mean() == pytest.approx(drawn.of("macro_f1 at 0.5", "cascade")[0][0], abs=0.01)
    assert 0.01 < replicates.std() < 0.06


def test_models_that_judge_other_lesions_are_refused() -> None:
    other = judged(1, lesions=120)
    with pytest.raises(ValueError, match="arm four_class with seed 1 judged other lesions"):
        draw_sweep(
            "vienna",
            {("cascade", 1): judged(1), ("four_class", 1): other},
            ["cascade", "four_class"],
            [1],
            [],
            resamples=5,
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of a cascade, a better one and a binary arm that asks for thresholds and pairs."""
    plan = Plan({"cascade": Arm(), "better": Arm(gain=1.2), "binary": Arm(gain=0.02)}, reference="cascade")
    path = write_comparison(tmp_path_factory.mktemp("sweep") / "c", plan)
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["compare"] |= {
        "triage_steps": [0.3, 0.6],
        "pairs": [["cascade", "better"], ["cascade", "binary"]],
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    for cell in path.glob("cells/binary/*/config.yaml"):
        told = yaml.safe_load(cell.read_text())
        cell.write_text(yaml.safe_dump(told | {"model": {"scheme": "binary"}}))
    build_comparison(path)
    return path


def test_the_tables_hold_thresholds_of_arms_that_differentiate(folder: Path) -> None:
    rows = pd.read_csv(folder / "results" / "sweep.csv")
    assert set(rows["arm"]) == {"cascade", "better"}, "a binary arm names no class"
    assert set(rows["threshold"].dropna()) == {0.3, 0.6}
    mean = rows[(rows["site"] == "(mean)") & (rows["role"] == "held-out") & (rows["threshold"] == 0.6)]
    values = mean.set_index("arm")
    assert values.loc["better", "macro_f1"] > values.loc["cascade", "upper"]
    assert (values["lower"] < values["macro_f1"]).all()


def test_a_pair_is_the_second_arm_less_the_first_and_has_a_family_of_its_own(folder: Path) -> None:
    pairs = pd.read_csv(folder / "results" / "pairs.csv")
    differences = pd.read_csv(folder / "results" / "differences.csv")
    keys = ["arm", "site", "role", "metric"]
    same = pairs[pairs["metric"] == "auc"].merge(differences, on=keys, suffixes=("", "_all"))
    assert len(same) == 2 * 9, "five sites, and mean and worst of the roles' sites, of which one has too few"
    np.testing.assert_allclose(same["difference"], same["difference_all"], atol=1e-6)
    f1 = pairs[pairs["metric"] == "macro_f1"]
    assert set(f1["arm"]) == {"better"}
    found = f1[(f1["site"] == "(mean)") & (f1["role"] == "held-out")].iloc[0]
    assert found["difference"] > 0.1
    assert found["p_holm"] < 0.01


def test_the_page_shows_both(folder: Path) -> None:
    page = (folder / "compare.html").read_text(encoding="utf-8")
    assert 'href="#pairs"' in page
    assert "better less cascade" in page
    assert "Triage threshold and macro-F1" in page
    sweep = page.split('id="sweep"')[1].split("</section>")[0]
    assert "its own" in sweep
    assert "vienna" in sweep
    assert "binary" not in sweep


def test_a_comparison_that_does_not_ask_has_neither(tmp_path: Path) -> None:
    plan = Plan({"cascade": Arm(), "better": Arm(gain=1.2)}, seeds=(1,), reference="cascade")
    path = write_comparison(tmp_path / "c", plan)
    build_comparison(path)
    assert not (path / "results" / "sweep.csv").exists()
    assert not (path / "results" / "pairs.csv").exists()
    assert 'id="sweep"' not in (path / "compare.html").read_text(encoding="utf-8")
