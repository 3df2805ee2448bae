"""A comparison's folder turned into tables and sentences; damaged, failed and unfinished cells."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from comparison_folders import SITES, Arm, Plan, drawn_scores, write_comparison

from fedderm.comparison import build_comparison, summary_lines
from fedderm.comparison.conclusions import conclusions_of
from fedderm.comparison.outcomes import read_comparison
from fedderm.comparison.results import Results, results_of
from fedderm.comparison.tables import write_tables
from fedderm.evaluation.metrics import metrics_of

PLAN = Plan(
    {
        "fedavg": Arm(),
        "fedprox": Arm(gain=0.02),
        "twin": Arm(own=0, seeds=0.08),
        "fedper": Arm(gain=-0.1, personal=0.5),
        "better": Arm(gain=1.2),
        "pooled": Arm(baseline="pooled"),
        "local": Arm(gain=-0.6, baseline="local"),
    },
    failed={"fedprox/4": "round 2: site molemax sent arrays that are not finite"},
    waiting=["fedprox/5"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_comparison(tmp_path_factory.mktemp("comparison") / "c", PLAN)
    build_comparison(path)
    return path


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "results" / f"{name}.csv")


def told(plan: Plan, folder: Path) -> tuple[Results, str]:
    results = results_of(read_comparison(write_comparison(folder, plan)))
    return results, "\n".join(conclusions_of(results))


def test_summary_holds_the_mean_over_seeds_of_each_cell(folder: Path) -> None:
    rows = table(folder, "summary")
    assert list(rows.columns) == [
        "arm", "site", "role", "model", "metric", "mean", "lower", "upper", "seeds", "lesions", "malignant",
    ]  # fmt: skip
    chosen = rows[(rows["arm"] == "better") & (rows["site"] == "vienna")].set_index("metric")
    expected = []
    for seed in PLAN.seeds:
        scores = drawn_scores(PLAN, "vienna", "better", seed, 1.2, "global")
        cell = read_comparison(folder)
        point = next(c for c in cell.cells if c.id == f"better/{seed}").point
        assert point.threshold == pytest.approx(0.2 + 0.02 * seed)
        expected.append(metrics_of(scores, point, "binary"))
    for name in ("auc", "sensitivity", "specificity", "balanced_accuracy", "ece"):
        assert chosen.loc[name, "mean"] == pytest.approx(np.mean([e[name] for e in expected]), abs=1e-5)
        assert chosen.loc[name, "lower"] < chosen.loc[name, "mean"] < chosen.loc[name, "upper"]
    assert (chosen["lesions"] == 160).all()
    assert (chosen["malignant"] == 45).all()


def test_differences_are_paired_and_personal_models_stay_apart(folder: Path) -> None:
    rows = table(folder, "differences")
    auc = rows[rows["metric"] == "auc"].set_index(["model", "arm", "site", "role"])
    assert set(rows[rows["model"] == "global"]["arm"]) == {"fedprox", "twin", "fedper", "better", "pooled"}
    assert set(rows[rows["model"] == "personal"]["arm"]) == {"fedper", "local"}
    assert set(rows[rows["model"] == "personal"]["role"]) == {"train"}
    assert (rows["reference"] == "fedavg").all()
    twin = rows[rows["arm"] == "twin"]
    assert (twin["difference"] == 0).all()
    assert twin["p"].isna().all()
    assert (rows[rows["arm"] == "fedprox"]["seeds"] == 3).all()
    summary = table(folder, "summary")
    means = summary[summary["metric"] == "auc"].set_index(["model", "arm", "site", "role"])["mean"]
    for model, arm in (("global", "better"), ("personal", "fedper")):
        at = auc.loc[model, arm, "molemax", "train"]
        reference = means["global", "fedavg", "molemax", "train"]
        assert at["difference"] == pytest.approx(means[model, arm, "molemax", "train"] - reference, abs=2e-6)
    assert auc.loc["global", "better", "queensland", "held-out"]["p_holm"] < 0.05
    screening = auc.loc["global", "better", "screening", "train"]
    assert np.isnan(screening["lower"])
    assert np.isnan(screening["p_holm"])


def test_ranks_are_of_global_models_alone(folder: Path) -> None:
    rows = table(folder, "ranks")
    assert set(rows["arm"]) == {"fedavg", "fedprox", "twin", "fedper", "better", "pooled"}
    for _, of_role in rows.groupby("role"):
        assert of_role["rank"].sum() == pytest.approx(6 * 7 / 2)
        assert of_role["arm"].iloc[0] == "better"
        equal = of_role.set_index("arm").loc[["fedavg", "twin"], "rank"]
        assert equal.iloc[0] == pytest.approx(equal.iloc[1])
    assert (rows["seeds"] == 3).all()  # fedprox lacks two


def test_cost_and_convergence(folder: Path) -> None:
    cost = table(folder, "cost").set_index("arm")
    assert cost.loc["fedavg", "images"] == 48_000
    assert cost.loc["fedavg", "seconds"] == pytest.approx(23)
    assert cost.loc["fedavg", "bytes_down"] == 36_000_000
    assert cost.loc[["pooled", "local"], "bytes_up"].eq(0).all()
    assert (cost.loc["fedprox", "cells"], cost.loc["local", "cells"]) == (3, 15)
    curve = table(folder, "convergence")
    fedavg = curve[(curve["arm"] == "fedavg") & (curve["role"] == "held-out")].set_index("round")
    assert fedavg["bytes_down"].tolist() == [8e6, 16e6, 24e6, 32e6]
    assert (fedavg["seeds"] == 5).all()
    read = read_comparison(folder)
    values = []
    for cell in read.cells_of("fedavg"):
        rows = pd.read_csv(cell.path / "rounds" / "metrics.csv")
        values.append(rows[(rows["role"] == "held-out") & (rows["round"] == 3)]["value"].item())
    point = fedavg.loc[3]
    assert (point["lowest"], point["highest"]) == pytest.approx((min(values), max(values)), abs=1e-5)
    assert point["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    assert "local" not in set(curve["arm"])


def test_a_local_baseline_is_a_matrix(folder: Path) -> None:
    rows = table(folder, "local_matrix")
    trained = ["rosendahl", "molemax", "screening"]
    assert set(zip(rows["trained"], rows["tested"], strict=True)) == {(a, b) for a in trained for b in SITES}
    at = rows.set_index(["trained", "tested"])
    own = [
        metrics_of(
            drawn_scores(PLAN, "molemax", "local", seed, -0.4, "globalmolemax"),
            operating_point_of(folder, seed),
            "binary",
        )["auc"]
        for seed in PLAN.seeds
    ]
    assert at.loc[("molemax", "molemax"), "mean"] == pytest.approx(np.mean(own), abs=1e-5)
    summary = table(folder, "summary")
    personal = summary[(summary["arm"] == "local") & (summary["metric"] == "auc")].set_index("site")
    assert set(personal["model"]) == {"personal"}
    assert personal.loc["molemax", "mean"] == pytest.approx(at.loc[("molemax", "molemax"), "mean"])


def operating_point_of(folder: Path, seed: int):  # type: ignore[no-untyped-def]
    return next(c for c in read_comparison(folder).cells if c.id == f"fedavg/{seed}").point


def test_the_sentences_say_what_can_and_cannot_be_concluded(folder: Path) -> None:
    lines = summary_lines(folder)
    text = "\n".join(lines)
    assert lines[0].startswith(
        "5 arms are compared with fedavg, with 5 seeds of training, at 2 held-out sites"
    )
    assert (
        "Of 45 cells 1 has failed and 1 is not finished; fedprox has fewer finished cells than planned"
        in text
    )
    better = next(line for line in lines if line.startswith("better is better than fedavg by AUC"))
    rows = table(folder, "differences")
    claimed = rows[(rows["arm"] == "better") & (rows["metric"] == "auc") & (rows["p_holm"] < 0.05)]
    for site in set(claimed["site"]) - {"(mean)", "(worst)"}:
        assert f"at {site} (+" in better
    assert "No claim is made about fedprox: fewer than 5 seeds in common with fedavg." in lines
    assert "twin has the same AUC as fedavg in every seed and every draw of lesions." in lines
    apart = next(line for line in lines if line.startswith(("None of", "pooled and", "fedper and")))
    # The differences excluded are the largest limit over the arms it names and the sites with enough lesions.
    alike = [arm for arm in ("fedper", "pooled") if f"{arm} is" not in text]
    sites = rows[
        rows["arm"].isin(alike) & (rows["metric"] == "auc") & (rows["model"] == "global") & rows["p"].notna()
    ]
    sites = sites[~sites["site"].str.startswith("(")]
    bound = sites[["lower", "upper"]].abs().to_numpy().max()
    assert f"differences of AUC beyond ±{bound:.3f} are excluded at all of them" in apart
    assert "local (personal) is worse than the global model of fedavg" in text
    assert (
        "Nothing is concluded where fewer than 10 lesions are malignant or benign: screening (6 malignant)."
        in text
    )


def test_no_claim_from_few_seeds(tmp_path: Path) -> None:
    arms = {"fedavg": Arm(), "better": Arm(gain=2.0)}
    three, text = told(Plan(arms, seeds=(1, 2, 3)), tmp_path / "three")
    assert any((one.p_holm or 1) < 0.05 for one in three.models.differences)
    assert "With 3 seeds no claim is made" in text
    assert "better is better" not in text
    one, text = told(Plan(arms, seeds=(1,)), tmp_path / "one")
    assert {d.p for d in one.models.differences} == {None}
    assert any(d.estimate.lower is not None for d in one.models.differences)
    assert "With one seed the intervals carry the lesions alone" in text


def test_each_site_held_out_in_its_turn(tmp_path: Path) -> None:
    arms = {"fedavg": Arm(), "scaffold": Arm(gain=0.3, personal=0.5), "local": Arm(baseline="local")}
    plan = Plan(arms, seeds=(1, 2), folds=True)
    results, text = told(plan, tmp_path / "folds")
    assert "at 5 sites, each held out in its turn." in text
    assert {place.role for place in results.models.places} == {"held-out"}
    assert {one.arm for one in results.personal.means} <= {"(global) fedavg"}
    place = next(p for p in results.models.places if p.name == "molemax")
    found = results.models.mean("scaffold", place)
    expected = [
        metrics_of(
            drawn_scores(plan, "molemax", "scaffold", seed, 0.3, "globalmolemax"),
            results.comparison.done[0].point,
            "binary",
        )["auc"]
        for seed in plan.seeds
    ]
    assert found.estimate.value == pytest.approx(np.mean(expected))

    # A site that is held out has no model of its own, in the table as in the file.
    write_tables(results)
    assert table(tmp_path / "folds", "local_matrix")["mean"].notna().all()

    # The model of a site that trained alone, in the fold of the site that it is tested at.
    matrix = {(trained, one.place.name): one.estimate.value for trained, one in results.matrices["local"]}
    assert matrix["molemax", "molemax"] is None
    alone = [
        metrics_of(
            drawn_scores(plan, "molemax", "local", seed, 0.0, "globalmolemaxvienna"),
            results.comparison.done[0].point,
            "binary",
        )["auc"]
        for seed in plan.seeds
    ]
    assert matrix["vienna", "molemax"] == pytest.approx(np.mean(alone))


def test_a_rotation_of_one_site_has_its_row_for_each_site_that_trained(tmp_path: Path) -> None:
    arms = {"fedavg": Arm(), "local": Arm(baseline="local")}
    path = write_comparison(tmp_path / "c", Plan(arms, seeds=(1, 2), folds=True, leave_out=["rosendahl"]))
    build_comparison(path)
    rows = table(path, "local_matrix")
    assert list(rows["trained"]) == ["molemax", "screening"]
    assert set(rows["tested"]) == {"rosendahl"}


def test_a_matrix_that_cannot_be_made_does_not_cost_the_page(tmp_path: Path) -> None:
    arms = {"fedavg": Arm(), "local": Arm(baseline="local")}
    path = write_comparison(tmp_path / "c", Plan(arms, seeds=(1,), folds=True))
    (path / "cells" / "local" / "1" / "vienna" / "molemax" / "scores.npz").write_bytes(b"broken")
    build_comparison(path)
    assert not (path / "results" / "local_matrix.csv").exists()
    assert summary_lines(path)[-1].startswith("local has no table of sites alone: ")


def test_the_draws_of_a_site_do_not_depend_on_what_else_is_compared(tmp_path: Path) -> None:
    few = {"fedavg": Arm(), "fedprox": Arm(gain=0.1)}
    more = {"zero": Arm(), **few, "last": Arm()}
    first, _ = told(Plan(few, seeds=(1, 2)), tmp_path / "few")
    second, _ = told(Plan(more, seeds=(1, 2)), tmp_path / "more")
    for one in first.models.differences:
        other = second.models.difference("fedprox", one.place, one.metric)
        assert other is not None
        assert other.estimate == one.estimate


def test_a_reference_without_a_finished_cell_leaves_the_means(tmp_path: Path) -> None:
    plan = Plan({"fedavg": Arm(), "fedprox": Arm()}, seeds=(1,), failed={"fedavg/1": "killed"})
    results, text = told(plan, tmp_path / "c")
    assert results.models.differences == []
    assert results.models.arms == ["fedprox"]
    assert text.splitlines() == [
        "No cell of fedavg, the reference, is finished: nothing is compared.",
        "Of 2 cells 1 has failed; fedavg has no finished cell.",
    ]


def test_a_difference_that_does_not_vary_is_neither_claimed_nor_no_difference(tmp_path: Path) -> None:
    sites = {name: SITES[name] for name in ("vienna", "rosendahl")}
    plan = Plan({"fedavg": Arm(gain=60, own=0), "worse": Arm(gain=-60)}, sites=sites)
    _, text = told(plan, tmp_path / "c")
    assert (
        "worse differs from fedavg by AUC \N{MINUS SIGN}1.000 at vienna and \N{MINUS SIGN}1.000 at rosendahl "
        "in every seed and every draw of lesions; no test is possible there." in text
    )
    assert "told apart" not in text


def test_the_seeds_that_have_finished_are_told(tmp_path: Path) -> None:
    waiting = ["fedavg/2", "fedprox/2", "fedavg/3", "fedprox/3"]
    plan = Plan({"fedavg": Arm(), "fedprox": Arm()}, seeds=(1, 2, 3), waiting=waiting)
    _, text = told(plan, tmp_path / "c")
    assert "1 arm is compared with fedavg, with 1 of 3 planned seeds of training" in text
    assert "With one seed the intervals carry the lesions alone" in text


def test_what_no_table_tells_of_is_said(tmp_path: Path) -> None:
    arms = {"fedavg": Arm(), "fedper": Arm(personal=0.5), "local": Arm(baseline="local")}
    plan = Plan(arms, seeds=(1,), folds=True, leave_out=["rosendahl"])
    _, text = told(plan, tmp_path / "c")
    assert "1 arm is compared with fedavg, with 1 seed of training, at 1 site, held out." in text
    assert "local trains a model for each site, told under Sites alone." in text
    assert "fedper keeps a personal model at each training site. Personal models are not judged here" in text
    assert "molemax and screening train in every fold and are in no table" in text
    assert "vienna and queensland are held out throughout and are in no table" in text


def test_one_arm_alone_has_means_and_nothing_else(tmp_path: Path) -> None:
    path = write_comparison(tmp_path / "c", Plan({"fedavg": Arm()}, seeds=(1, 2)))
    page = build_comparison(path).read_text(encoding="utf-8")
    assert "fedavg alone was run, with 2 seeds of training" in summary_lines(path)[0]
    names = {file.stem for file in (path / "results").glob("*.csv")}
    assert names == {"summary", "worst", "cost", "convergence"}
    assert 'id="differences"' not in page
    assert 'id="ranks"' not in page


@pytest.mark.parametrize(
    ("part", "content", "found"),
    [
        ("cells/fedavg/1/scores.npz", b"PK\x03\x04broken", r"scores\.npz cannot be read"),
        ("cells/fedavg/1/model/model.json", b"{", r"model\.json cannot be read"),
        ("cells/fedavg/1/model/model.json", b"{}", r"federation_point: Input should be"),
        ("cells/fedavg/1/rounds/metrics.csv", b"site\nx\n", r"no column role"),
        (
            "cells/fedavg/1/rounds/state.json",
            b'{"history": [{"round": 1}]}',
            r"history: KeyError\('bytes_down'\)",
        ),
        ("cells/fedavg/1/config.yaml", b"- a", "expected keys and values"),
        ("cells.csv", b"cell,arm\n", r"cells\.csv cannot be read \(no column seed"),
        ("config.yaml", b"name: x\n", "no sections compare and sites"),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(
    tmp_path: Path, part: str, content: bytes, found: str
) -> None:
    path = write_comparison(tmp_path / "c", Plan({"fedavg": Arm(), "fedprox": Arm()}, seeds=(1,)))
    (path / part).write_bytes(content)
    with pytest.raises(ValueError, match=found) as caught:
        build_comparison(path)
    assert "\n" not in str(caught.value)
    assert ("--resume" in str(caught.value)) == (part != "config.yaml")
    assert ("writes it again" in str(caught.value)) == (part == "cells.csv")
    assert not (path / "compare.html").exists()
    assert not (path / "results").exists()


def test_other_lesions_in_a_cell_and_missing_files_are_named(tmp_path: Path) -> None:
    path = write_comparison(tmp_path / "c", Plan({"fedavg": Arm(), "fedprox": Arm()}, seeds=(1,)))
    file = path / "cells" / "fedprox" / "1" / "scores.npz"
    with np.load(file) as held:
        arrays = dict(held)
    arrays["vienna/global/lesion"] = np.array([f"x{i:03d}" for i in range(160)])
    np.savez_compressed(file, **arrays)
    with pytest.raises(
        ValueError, match="site vienna: arm fedprox with seed 1 and arm fedavg with seed 1 judged"
    ):
        build_comparison(path)
    file.unlink()
    with pytest.raises(
        ValueError, match=r"fedprox/1/scores.npz cannot be read \(No such file or directory\);"
    ):
        build_comparison(path)
    with pytest.raises(ValueError, match=r"holds no cells\.csv"):
        build_comparison(tmp_path)
    none = Plan({"fedavg": Arm()}, seeds=(1,), waiting=["fedavg/1"])
    with pytest.raises(ValueError, match="no finished cell to compare; go on with `fedderm compare --resume"):
        build_comparison(write_comparison(tmp_path / "none", none))
