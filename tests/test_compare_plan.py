"""From a config with a section compare to cells, and what is refused before anything runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import fedderm
from federations import raw_config, simulated, write_config

from fedderm import config
from fedderm.comparison.folds import folds_of
from fedderm.comparison.plan import Cell, cells_of, merged

ARMS: dict[str, Any] = {
    "fedavg": {"strategy": {"name": "fedavg"}},
    "FedProx, mu 0.1": {"strategy": {"name": "fedprox", "proximal_mu": 0.1}},
    "local": {"baseline": "local"},
}


def compare(**changes: Any) -> dict[str, Any]:
    return {"reference": "fedavg", "seeds": [1, 2], "arms": ARMS, **changes}


def planned(root: Path, **changes: Any) -> list[Cell]:
    return cells_of(config.parse(raw_config(root, **{"compare": compare(), **changes})))


def test_every_arm_is_run_with_every_seed_and_a_local_one_at_every_training_site(tmp_path: Path) -> None:
    assert [cell.id for cell in planned(tmp_path)] == [
        f"{arm}/{seed}{site}"
        for seed in (1, 2)
        for arm, site in (
            ("fedavg", ""), ("fedprox-mu-0.1", ""), ("local", "/west"), ("local", "/east")
        )
    ]  # fmt: skip


def test_a_cell_is_an_ordinary_experiment_that_differs_in_what_its_arm_says(tmp_path: Path) -> None:
    found = planned(tmp_path, compare=compare(cell_bootstrap=30))
    prox, local = found[5].experiment, found[7]
    assert (prox.strategy.name, prox.strategy.proximal_mu, prox.training.seed) == ("fedprox", 0.1, 2)
    assert prox.strategy.deadline == 120.0, "the rest of the section is the experiment's"
    assert (prox.seed, prox.compare, prox.evaluation.bootstrap) == (7, None, 30)
    assert (local.experiment.baseline, local.experiment.baseline_site, local.trained) == (
        "local",
        "east",
        "east",
    )
    assert {cell.experiment.evaluation.bootstrap for cell in planned(tmp_path)} == {0}
    assert all(config.parse(config_of(cell)) == cell.experiment for cell in found)


def config_of(cell: Cell) -> dict[str, Any]:
    return cell.experiment.model_dump(mode="json")


def test_the_examples_of_the_docs_can_be_planned(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(compare:\n.*?)```", text, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        assert planned(tmp_path, compare=yaml.safe_load(example)["compare"])
    grid = {"grid": {"strategy.proximal_mu": [0.01, 0.1]}, "reference": "fedavg, proximal_mu 0.01"}
    beside = yaml.safe_load(examples[1])["compare"] | grid
    with pytest.raises(ValueError, match="fedavg, proximal_mu"):
        planned(tmp_path, compare=beside)


def test_the_grid_multiplies_the_arms(tmp_path: Path) -> None:
    grid = {"training.learning_rate": [0.001, 0.01], "rounds": [1, 3]}
    one = {"fedavg": {}, "prox": {"strategy": {"name": "fedprox", "proximal_mu": 0.1}}}
    reference = "fedavg, learning_rate 0.001, rounds 3"
    found = planned(tmp_path, compare=compare(arms=one, grid=grid, reference=reference, seeds=[1]))
    assert [cell.arm for cell in found] == [
        f"{arm}, learning_rate {rate}, rounds {rounds}"
        for arm in one
        for rate in (0.001, 0.01)
        for rounds in (1, 3)
    ]
    last = found[-1].experiment
    assert (last.training.learning_rate, last.rounds, last.strategy.name) == (0.01, 3, "fedprox")
    assert found[-1].id == "prox-learning-rate-0.01-rounds-3/1"


def test_what_can_only_stand_instead_of_something_else_replaces_it() -> None:
    prox = {"strategy": {"name": "fedprox", "proximal_mu": 0.1, "parameters": {}, "quorum": 0.5}}
    assert merged(prox, {"strategy": {"name": "fedavg"}}) == {"strategy": {"name": "fedavg", "quorum": 0.5}}
    assert merged(prox, {"strategy": {"proximal_mu": 1}})["strategy"]["proximal_mu"] == 1
    assert merged(prox, {"strategy": {"name": "fedprox"}}) == prox
    passes = {"training": {"local_epochs": 1.0, "local_steps": None, "batch_size": 8}}
    assert merged(passes, {"training": {"local_steps": 5}}) == {
        "training": {"local_steps": 5, "batch_size": 8}
    }
    alone = {"baseline": "local", "baseline_site": "west"}
    assert merged(alone, {"baseline": "pooled"}) == {"baseline": "pooled"}


def test_steps_of_an_arm_replace_the_experiments_passes(tmp_path: Path) -> None:
    arms = {"fedavg": {}, "steps": {"training": {"local_steps": 5}}}
    training = planned(tmp_path, compare=compare(arms=arms))[1].experiment.training
    assert (training.local_steps, training.local_epochs) == (5, None)


def test_leave_one_site_out_holds_out_each_site_in_turn(tmp_path: Path) -> None:
    """The held-out site has a held-out site's splits; one listed as held out trains in the others' folds."""
    settings = compare(protocol="leave_one_site_out", arms={"fedavg": {}, "local": {"baseline": "local"}})
    experiment = config.parse(raw_config(tmp_path, compare=settings))
    folds = folds_of(experiment)
    roles = {fold: {site.name: site.role for site in one.sites} for fold, one in folds.items()}
    names = ("west", "east", "away")
    assert roles == {
        fold: {name: "held-out" if name == fold else "train" for name in names} for fold in names
    }
    for fold, one in folds.items():
        shares = {site.name: site.fractions().train for site in one.sites}
        assert shares[fold] == 0
        assert shares["west"] in (0, 0.5), "a training site keeps its own splits"
    assert folds["west"].sites[2].fractions().train == 0.65, "the default of a training site"
    ids = [cell.id for cell in cells_of(experiment) if cell.seed == 1 and cell.held_out == "west"]
    assert ids == ["fedavg/1/west", "local/1/west/east", "local/1/west/away"]


def test_leave_out_narrows_the_rotation_and_others_keep_their_role(tmp_path: Path) -> None:
    settings = compare(protocol="leave_one_site_out", leave_out=["east", "west"])
    folds = folds_of(config.parse(raw_config(tmp_path, compare=settings)))
    assert list(folds) == ["west", "east"]
    assert all(one.sites[2].role == "held-out" for one in folds.values())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reference": "fedavgg"}, "compare.reference: there is no arm fedavgg (did you mean fedavg?)"),
        ({"reference": "local"}, "compare.reference: local is a model for each training site, not one"),
        ({"arms": {}}, "compare.arms: expected at least one entry; found {}"),
        ({"arms": {"a": 3}}, "compare.arms.a: expected keys with values; found 3"),
        ({"arms": {"?": {}}}, "compare: arms.?: a label needs a letter or digit"),
        ({"seeds": [1, 2, 1]}, "compare: seeds: 1 stands twice"),
        ({"seeds": []}, "compare.seeds: expected at least one entry"),
        ({"protocol": "loso"}, "compare.protocol: expected fixed, leave_one_site_out or lesion_folds"),
        ({"leave_out": ["west"]}, "compare: leave_out belongs to protocol: leave_one_site_out"),
        ({"arm": {}}, "compare.arm: no such key (did you mean arms?)"),
        (
            {"arms": {**ARMS, "bad": {"strategy": {"name": "fedprocks"}}}},
            "compare.arms.bad: strategy.name: there is no strategy fedprocks; did you mean fedprox?",
        ),
        (
            {"arms": {**ARMS, "bad": {"strategy": {"name": "fedadam", "parameters": {"etta": 0.1}}}}},
            "compare.arms.bad: strategy fedadam has no parameter etta; did you mean eta?",
        ),
        ({"arms": {**ARMS, "bad": {"rouns": 3}}}, "compare.arms.bad: rouns: no such key"),
        ({"arms": {**ARMS, "bad": {"model": {"backbone": "resnot"}}}}, "compare.arms.bad: "),
        (
            {"arms": {**ARMS, "bad": {"strategy": {"name": "scaffold"}}}},
            "compare.arms.bad: strategy.name: scaffold: its mathematics is that of SGD",
        ),
        (
            {"arms": {**ARMS, "bad": {"training": 3}}},
            "compare.arms.bad: training: expected keys with values; found 3",
        ),
        ({"arms": {**ARMS, "bad": {"seed": 3}}}, "compare.arms.bad.seed: all arms share it"),
        (
            {"arms": {**ARMS, "bad": {"training": {"seed": 3}}}},
            "compare.arms.bad.training.seed: is set by compare.seeds",
        ),
        ({"arms": {**ARMS, "FedAvg": {}}}, "FedAvg and fedavg would share the folder fedavg"),
        (
            {"arms": {**ARMS, "bad": {"baseline": "local", "baseline_site": "nort"}}},
            "compare.arms.bad: baseline_site: nort is no site of this experiment; name one of west, east",
        ),
        (
            {"arms": {**ARMS, "bad": {"baseline": "local", "baseline_site": "away"}}},
            "compare.arms.bad: baseline_site: away is held out and cannot train; name one of west, east",
        ),
        (
            {"grid": {"training.learning_rate": [0.1, 0.2]}},
            "compare.grid makes several arms of fedavg; name one, such as 'fedavg, learning_rate 0.1'",
        ),
        (
            {"grid": {"training.learning_rat": [0.1]}, "reference": "fedavg, learning_rat 0.1"},
            "compare.grid, arm 'FedProx, mu 0.1, learning_rat 0.1': training.learning_rat: no such key",
        ),
        ({"grid": {"sites": [[]]}}, "compare.grid.sites: all arms share it"),
        ({"grid": {"rounds": [3, 3]}}, "would share the folder fedprox-mu-0.1-rounds-3"),
        (
            {"protocol": "leave_one_site_out", "leave_out": ["nord", "west"]},
            "compare.leave_out: nord is no site of this experiment; there are west, east, away",
        ),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_a_mistake_is_told_in_one_sentence_before_there_is_a_folder(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    path = write_config(tmp_path, compare=compare(**changes))
    assert expected in fedderm("compare", path).sentence()
    assert not (tmp_path / "runs").exists()


def test_a_config_without_the_section_and_one_whose_only_site_is_held_out(tmp_path: Path) -> None:
    told = fedderm("compare", write_config(tmp_path)).sentence()
    assert "compare: is missing; say which arms and seeds to compare" in told
    alone = compare(protocol="leave_one_site_out", arms={"fedavg": {}})
    told = fedderm("compare", write_config(tmp_path, [simulated("west")], compare=alone)).sentence()
    assert "compare.protocol: with west held out: sites: none has role: train" in told


def test_the_local_baseline_needs_a_site_that_trains(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="baseline_site: baseline: local needs the site that trains alone"):
        config.parse(raw_config(tmp_path, baseline="local"))
    with pytest.raises(ValueError, match="baseline_site belongs to baseline: local"):
        config.parse(raw_config(tmp_path, baseline_site="west"))


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        (["fedavg", "fedprox"], "there is no arm fedprox with one model for all sites"),
        (["fedavg", "local"], "there is no arm local with one model for all sites"),
        (["fedavg", "fedavg"], "fedavg is paired with itself"),
    ],
)
def test_a_pair_names_two_arms_with_one_model_each(tmp_path: Path, pair: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"compare.pairs: {sentence}")):
        planned(tmp_path, compare=compare(pairs=[pair]))
    planned(tmp_path, compare=compare(pairs=[["fedavg", "FedProx, mu 0.1"]]))


def test_the_papers_configs_can_be_planned() -> None:
    folder = Path(__file__).parents[1] / "configs" / "papers"
    cells = {path.stem: cells_of(config.load(path)) for path in sorted(folder.glob("cascade*.yaml"))}
    assert {name: len(found) for name, found in cells.items()} == {"cascade": 80, "cascade_small": 20}
    models = {(cell.experiment.model.backbone, cell.experiment.model.scheme) for cell in cells["cascade"]}
    assert len(models) == 12, "four backbones in three schemes"


def test_the_multi_source_papers_configs_are_five_folds_of_every_model() -> None:
    folder = Path(__file__).parents[1] / "configs" / "papers"
    cells = {
        name: cells_of(config.load(folder / f"{name}.yaml"))
        for name in ("multi_source", "multi_source_small")
    }
    # 3 seeds, 5 folds; one model for each of 2 or 5 sources where they train alone.
    assert len(cells["multi_source"]) == 3 * 5 * (1 + 2 + 2 + 1)
    assert len(cells["multi_source_small"]) == 3 * 5 * (4 + 5)
    fused = {cell.experiment.model.backbone for cell in cells["multi_source"]}
    assert fused == {"convnext_tiny", "convnext_tiny+tf_efficientnet_b0"}
    assert {cell.experiment.model.diagnoses for found in cells.values() for cell in found} == {"seven"}
