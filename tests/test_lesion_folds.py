"""Cross-validation over lesions: every lesion is tested once, at its fold's own point, by all arms alike."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import fedderm
from federations import raw_config, simulated, write_config
from test_fed_isic2019 import fed

from fedderm import config
from fedderm.comparison.folds import folds_of
from fedderm.comparison.plan import cells_of
from fedderm.evaluation.documents import OperatingPoint
from fedderm.evaluation.lesion_draws import Judged
from fedderm.evaluation.scores import Scores
from sites.catalogue import load_site
from sites.errors import SiteError
from sites.fed_isic2019 import FedIsic2019Site
from sites.simulated import SimulatedSite
from sites.site import Slice, SplitFractions
from sites.splits import assign_fold, groups_of

FRACTIONS = SplitFractions(train=0.6, calibration=0.2, test=0.2)
TRAINING = [simulated("west", 40), simulated("east", 40)]
COMPARE: dict[str, Any] = {
    "protocol": "lesion_folds",
    "folds": 2,
    "reference": "joint",
    "seeds": [1],
    "arms": {"joint": {"baseline": "pooled"}, "alone": {"baseline": "local"}, "federated": {}},
}


def table(patients: bool = False) -> pd.DataFrame:
    """120 lesions with two images each; a patient has three lesions."""
    names = ["nv"] * 70 + ["mel"] * 35 + ["bcc"] * 15
    rows = [
        {"image_id": f"{n}-{k}", "lesion_id": f"l{n}", "diagnosis": name, "class_index": int(name != "nv")}
        for n, name in enumerate(names)
        for k in range(2)
    ]
    found = pd.DataFrame(rows)
    owner = found["lesion_id"].str[1:].astype(int) // 3
    found["patient_id"] = ("p" + owner.astype(str)).astype("str") if patients else None
    return found


@pytest.mark.parametrize("patients", [False, True])
def test_every_lesion_is_tested_in_one_fold_and_trains_in_the_others(patients: bool) -> None:
    given = table(patients)
    splits = [assign_fold(given, FRACTIONS, Slice(index=n, of=5), seed=1)["split"] for n in range(5)]
    tested = pd.concat([split == "test" for split in splits], axis=1).sum(axis=1)
    assert (tested == 1).all()
    for split in splits:
        assert split.groupby(groups_of(given)).nunique().max() == 1
        lesions = given.assign(split=split).drop_duplicates("lesion_id")
        # A fifth is tested; of the rest three quarters train. Patients come in threes.
        counts = lesions["split"].value_counts()
        assert abs(counts["test"] - 24) <= (6 if patients else 2)
        assert abs(counts["calibration"] - 24) <= (9 if patients else 3)
        if not patients:
            assert lesions[lesions["split"] == "test"]["diagnosis"].value_counts().to_dict() == pytest.approx(
                {"nv": 14, "mel": 7, "bcc": 3}, abs=1
            )


def test_a_fold_follows_from_the_seed_alone() -> None:
    given = table()
    fold = Slice(index=2, of=5)
    once = assign_fold(given, FRACTIONS, fold, seed=1).set_index("image_id")["split"]
    shuffled = assign_fold(given.sample(frac=1, random_state=3), FRACTIONS, fold, seed=1)
    pd.testing.assert_series_equal(once, shuffled.set_index("image_id")["split"].loc[once.index])
    assert not once.equals(assign_fold(given, FRACTIONS, fold, seed=2).set_index("image_id")["split"])


def test_a_site_with_a_fold_is_split_by_it(tmp_path: Path) -> None:
    raw = simulated("west", 30, fold={"index": 0, "of": 3})
    first = load_site(SimulatedSite.model_validate(raw), None, tmp_path, 7).table
    assert first[first["split"] == "test"]["lesion_id"].nunique() in (9, 10, 11)


@pytest.mark.parametrize("given", [{"role": "held-out"}, {"fold": {"index": 0, "of": 1}}])
def test_a_fold_needs_a_training_site_and_two_parts(given: dict[str, Any]) -> None:
    raw = {**simulated("west", 30, fold={"index": 0, "of": 3}), "splits": None, **given}
    with pytest.raises(ValueError, match="fold leaves a part of a training site's lesions"):
        SimulatedSite.model_validate(raw)


def test_a_published_split_is_not_cut_into_folds(tmp_path: Path) -> None:
    raw = {"name": "bcn", "source": "fed_isic2019", "centre": 0, "split": "published"}
    site = FedIsic2019Site.model_validate({**raw, "fold": {"index": 0, "of": 2}})
    with pytest.raises(SiteError, match="fold: this source has a published split"):
        load_site(site, fed(tmp_path), tmp_path / "work", 7)


def test_cells_are_arms_by_seeds_by_folds(tmp_path: Path) -> None:
    experiment = config.parse(raw_config(tmp_path, TRAINING, compare=COMPARE))
    cells = cells_of(experiment)
    assert [cell.id for cell in cells] == [
        f"{arm}/1/{fold}{site}"
        for fold in ("fold1", "fold2")
        for arm, site in (("joint", ""), ("alone", "/west"), ("alone", "/east"), ("federated", ""))
    ]
    assert [site.fold for site in cells[-1].experiment.sites] == [Slice(index=1, of=2)] * 2
    five = {**COMPARE, "folds": None}
    assert len(folds_of(config.parse(raw_config(tmp_path, TRAINING, compare=five)))) == 5


@pytest.mark.parametrize(
    ("sites", "changes", "sentence"),
    [
        ([*TRAINING, simulated("away", role="held-out")], {}, "away is held out; give it role: train"),
        (
            [simulated("west", fold={"index": 0, "of": 3})],
            {},
            "west has a fold of its own; remove its fold",
        ),
        (TRAINING, {"protocol": "fixed"}, "folds belongs to protocol: lesion_folds"),
        (
            TRAINING,
            {"arms": {"joint": {"model": {"diagnoses": "seven"}}, "b": {"model": {"diagnoses": "eleven"}}}},
            "model.diagnoses is seven in some arms and eleven in others",
        ),
    ],
)
def test_what_cannot_be_folded_is_told(
    tmp_path: Path, sites: list[dict[str, Any]], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        cells_of(config.parse(raw_config(tmp_path, sites, compare={**COMPARE, **changes})))


def point(threshold: float) -> OperatingPoint:
    return OperatingPoint(
        calibration="identity",
        slope=1,
        intercept=0,
        threshold=threshold,
        threshold_probability=0.5,
        origin="a test",
    )


def scores(*lesions: str) -> Scores:
    n = len(lesions)
    return Scores(np.zeros(n), np.ones(n, int), np.zeros(n, int), np.array(lesions))


def test_folds_are_joined_by_lesion_each_at_its_own_point() -> None:
    joined = Judged.of_folds([Judged(scores("c", "d"), point(-1)), Judged(scores("a", "e"), point(1))])
    assert joined.scores.lesion.tolist() == ["a", "c", "d", "e"]
    decided = joined.rows(lambda rows, its: (rows.triage >= its.threshold).astype(float))
    assert decided.tolist() == [0, 1, 1, 0]
    with pytest.raises(ValueError, match="tested in two folds"):
        Judged.of_folds([Judged(scores("c"), point(0)), Judged(scores("c"), point(0))])


@pytest.mark.slow
def test_a_comparison_over_folds_tells_pooled_f1_and_gaps(tmp_path: Path) -> None:
    path = write_config(
        tmp_path,
        TRAINING,
        compare=COMPARE,
        model={"diagnoses": "seven"},
        rounds=1,
        resources={"workers": 2},
    )
    result = fedderm("compare", path)
    assert result.code == 0, result.stderr
    folder = next((tmp_path / "runs" / "tiny").glob("*"))
    found = pd.read_csv(folder / "results" / "diagnoses.csv", keep_default_na=False)
    f1 = found[found["metric"] == "macro_f1"]
    models = [("joint", ""), ("alone", "west"), ("alone", "east"), ("federated", "")]
    assert set(zip(f1["arm"], f1["trained"], strict=True)) == set(models)
    assert set(f1["site"]) == {"west", "east", "(pooled)"}
    # Every lesion of both sites, each tested once.
    assert set(f1.loc[f1["site"] == "(pooled)", "lesions"]) == {80}
    gaps = pd.read_csv(folder / "results" / "gaps.csv").set_index(["arm", "site"])
    for arm in ("joint", "alone", "federated"):
        of_sites = gaps.loc[[(arm, "west"), (arm, "east")]]
        assert gaps.loc[(arm, "(mean)"), "gap"] == pytest.approx(of_sites["gap"].mean(), abs=1e-5)
    row, alone = gaps.loc[("joint", "west")], gaps.loc[("alone", "west")]
    assert row["gap"] == pytest.approx(row["home"] - row["away"], abs=1e-5)
    assert row["less_alone"] == pytest.approx(row["gap"] - alone["gap"], abs=1e-5)
    assert np.isnan(alone["less_alone"])
    page = (folder / "compare.html").read_text()
    assert '<section id="diagnoses">' in page
    assert "each lesion tested in one of 2 folds" in page
    assert set(json.loads((folder / "audit.json").read_text())["folds"]) == {"fold1", "fold2"}
