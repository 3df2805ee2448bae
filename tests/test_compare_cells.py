"""One cell of a comparison: the run that its config describes, and what its model says of each lesion."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import SITES, Notes, local, new_run, run_in_memory, same, state, weights

from fedderm.budget import image_updates
from fedderm.comparison import memory
from fedderm.comparison.cells import run_cell
from fedderm.comparison.job import Job
from fedderm.comparison.scores import FILE, pooled_auc, read_scores
from fedderm.evaluation.scores import Scores
from fedderm.report import build_report
from fedderm.runs import RunFolder
from fedderm.training_settings import TrainingSettings
from fedderm.weights import read_arrays
from fedderm.worker_models import worker_model
from strategies.errors import Interrupted

WEST, EAST, AWAY = range(3)
SALT = "0123456789abcdef"
NO_INTERVALS = {"evaluation": {"bootstrap": 0, "views": 1}}


def job(folder: RunFolder) -> Job:
    return Job(str(folder.path), None, SALT, {})


def silent(event: Mapping[str, Any]) -> None:
    del event


@pytest.fixture(scope="module")
def cell(root: Path) -> RunFolder:
    """A cell of FedAvg, two rounds over two training sites, one held out."""
    folder = new_run(root, **NO_INTERVALS)
    run_cell(job(folder), silent)
    return folder


def test_a_cell_is_the_run_of_its_config(root: Path, cell: RunFolder) -> None:
    run = new_run(root, **NO_INTERVALS)
    run_in_memory(run)
    assert same(weights(cell.path), weights(run.path))
    for name in ("rounds/metrics.csv", "evaluation/metrics.csv", "evaluation/sites.json"):
        assert (cell.path / name).read_bytes() == (run.path / name).read_bytes()
    assert not (cell.path / "report.html").exists()
    assert build_report(cell.path).is_file(), "a cell's report is drawn when it is asked for"


def test_its_scores_are_those_of_its_model_by_lesion_and_sorted(cell: RunFolder) -> None:
    """A training site by its test split, a held-out site by all its lesions; no pickles."""
    found = read_scores(cell.path / FILE)
    assert list(found) == [(name, "global") for name in ("west", "east", "away")]
    model = worker_model(cell.experiment, read_arrays(cell.path / "model" / "model.safetensors"))
    for position, splits in ((WEST, ("test",)), (EAST, ("test",)), (AWAY, ("calibration", "test"))):
        site = local(cell, position)
        expected = Scores.join(*(site.score(model, split, 1, "auto").scores for split in splits)).per_lesion()
        scores = found[site.settings.name, "global"]
        for name in ("lesion", "triage", "truth", "differential"):
            np.testing.assert_array_equal(getattr(scores, name), getattr(expected, name))
        assert sorted(scores.lesion) == list(scores.lesion)
        assert len(set(scores.lesion)) == len(scores.lesion)
    held_out = local(cell, AWAY).table
    assert set(found["away", "global"].lesion) == set(held_out["lesion_id"])


def test_the_arrays_have_the_names_and_types_of_the_contract(cell: RunFolder) -> None:
    with np.load(cell.path / FILE, allow_pickle=False) as held:
        kinds = {key: held[key].dtype.kind for key in held.files}
    assert kinds == {
        f"{site['name']}/global/{name}": kind
        for site in SITES
        for name, kind in (("lesion", "U"), ("triage", "f"), ("truth", "i"), ("differential", "i"))
    }


def test_the_pooled_auc_is_that_of_the_lesions_together(cell: RunFolder) -> None:
    found = read_scores(cell.path / FILE)
    joined = Scores.join(found["west", "global"], found["east", "global"])
    positive, negative = joined.triage[joined.positive], joined.triage[~joined.positive]
    pairs = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    assert pooled_auc(found, ["west", "east"]) == pytest.approx(pairs)
    assert pooled_auc(found, []) is None


def test_scores_that_are_damaged_or_missing_are_named(tmp_path: Path, cell: RunFolder) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_scores(tmp_path / FILE)
    (tmp_path / FILE).write_bytes((cell.path / FILE).read_bytes()[:200])
    with pytest.raises(ValueError, match=f"{FILE} cannot be read"):
        read_scores(tmp_path / FILE)


def test_a_cell_goes_on_after_its_last_round_and_a_finished_one_is_not_run_again(
    root: Path, cell: RunFolder
) -> None:
    notes, told = Notes(), list[Mapping[str, Any]]()
    folder = new_run(root, **NO_INTERVALS)
    with pytest.raises(Interrupted):
        run_in_memory(folder, should_stop=lambda: notes.stages[-1] == "round 2/2: train", notes=notes)
    run_cell(job(folder), told.append)
    assert [(one["event"], one["number"]) for one in told] == [("round", 2)]
    assert same(weights(folder.path), weights(cell.path))
    assert (folder.path / "rounds" / "metrics.csv").read_bytes() == (
        cell.path / "rounds" / "metrics.csv"
    ).read_bytes()

    (folder.path / FILE).unlink()  # killed between its evaluation and its scores
    run_cell(job(folder), told.append)
    assert len(told) == 1, "no round is repeated"
    assert (folder.path / FILE).is_file()


def test_personal_models_are_scored_apart_at_the_sites_that_have_one(root: Path) -> None:
    """FedPer: each training site's own heads on the shared trunk, by its own test lesions."""
    folder = new_run(root, strategy={"name": "fedper"}, **NO_INTERVALS)
    run_cell(job(folder), silent)
    found = read_scores(folder.path / FILE)
    assert [key for key in found if key[1] == "personal"] == [("west", "personal"), ("east", "personal")]
    run = folder.state()["run"]
    for position, name in ((WEST, "west"), (EAST, "east")):
        shared, own = found[name, "global"], found[name, "personal"]
        np.testing.assert_array_equal(own.lesion, shared.lesion)
        assert (own.triage != shared.triage).all()
        arrays = read_arrays(folder.path / "model" / "model.safetensors")
        kept = read_arrays(folder.experiment.work_dir / "site_state" / run / name / "0002.safetensors")
        assert set(kept) < set(arrays)
        model = worker_model(folder.experiment, {**arrays, **kept})
        expected = local(folder, position).score(model, "test", 1, "auto").scores.per_lesion()
        np.testing.assert_array_equal(own.triage, expected.triage)


# The baselines and the seed of training.


def test_a_local_baseline_trains_at_its_site_with_the_federations_image_updates(root: Path) -> None:
    federated, alone = new_run(root), new_run(root, baseline="local", baseline_site="east")
    run_in_memory(federated)
    grid = run_in_memory(alone)
    assert [grid.types_sent_to(position).count("train") for position in (WEST, EAST, AWAY)] == [0, 2, 0]
    budget = [images(entry) for entry in state(federated)["history"]]
    assert [images(entry) for entry in state(alone)["history"]] == budget
    assert {name for entry in state(alone)["history"] for name in entry["sites"]} == {"east"}
    told = json.loads((alone.path / "evaluation" / "sites.json").read_text())
    assert {name: one["role"] for name, one in told.items()} == {
        "west": "train",
        "east": "train",
        "away": "held-out",
    }
    description = json.loads((alone.path / "model" / "model.json").read_text())
    assert description["training_sites"] == ["east"]
    calibration = local(alone, EAST).table.query("split == 'calibration'")
    malignant = calibration[calibration["class_index"] > 0]["lesion_id"].nunique()
    assert f"{malignant} malignant lesion" in description["federation_point"]["origin"], (
        "the threshold comes from the trained site's calibration split alone"
    )


def images(entry: Mapping[str, Any]) -> int:
    return sum(site["images"] for site in entry["sites"].values())


def test_the_pooled_baseline_has_the_same_image_updates(root: Path) -> None:
    federated, pooled = new_run(root), new_run(root, baseline="pooled")
    for folder in (federated, pooled):
        run_in_memory(folder)
    assert [images(one) for one in state(pooled)["history"]] == [
        images(one) for one in state(federated)["history"]
    ]


def test_image_updates_are_summed_over_sites_as_they_are_rounded_there() -> None:
    """20 and 13 images in batches of 8: 2 (2.5 to even) and 2 (1.6) steps; 3 images are one batch of 3."""
    passes = TrainingSettings(local_epochs=1.0, batch_size=8)
    assert image_updates([20, 13, 3], passes, 1.0) == 16 + 16 + 3
    assert image_updates([20, 13, 3], TrainingSettings(local_steps=5, batch_size=8), 1.0) == 40 + 40 + 15
    assert image_updates([16, 16, 16, 16], passes, 0.5) == 32, "two of four sites are drawn each round"


def test_a_source_balanced_pool_is_another_training_and_steps_draw_that_way_by_themselves(root: Path) -> None:
    def pooled(**training: Any) -> dict[str, Any]:
        folder = new_run(root, rounds=1, baseline="pooled", training=training)
        run_in_memory(folder)
        return weights(folder.path)

    assert not same(pooled(), pooled(source_balanced=True))
    assert same(pooled(source_balanced=False), pooled())
    assert same(pooled(local_steps=3), pooled(local_steps=3, source_balanced=True))
    assert not same(pooled(local_steps=3), pooled(local_steps=3, source_balanced=False))


def test_the_seed_of_training_changes_the_weights_and_not_the_lesions(root: Path, cell: RunFolder) -> None:
    other = new_run(root, training={"seed": 5}, **NO_INTERVALS)
    run_cell(job(other), silent)
    assert not same(weights(other.path), weights(cell.path))
    first, second = read_scores(cell.path / FILE), read_scores(other.path / FILE)
    for key, scores in first.items():
        np.testing.assert_array_equal(scores.lesion, second[key].lesion)
    explicit = new_run(root, training={"seed": 7}, **NO_INTERVALS)
    run_in_memory(explicit)
    assert same(weights(explicit.path), weights(cell.path)), "the default is the experiment's"


# What memory allows.


def test_the_peak_of_this_process_and_what_the_machine_has_left_are_told() -> None:
    block = np.ones(8_000_000)
    assert memory.peak_of_this_process() > block.nbytes
    left = memory.available()
    assert left is not None
    assert left > 1 << 20


def test_another_worker_fits_while_memory_holds_it_and_what_the_others_may_still_take() -> None:
    left = memory.available()
    assert left is not None
    assert memory.room_for_another(1, [])
    assert not memory.room_for_another(left, [])
    third = left // 3 - (1 << 28)
    gone = 2**22 + 1  # no such process: nothing of what it was promised is taken yet
    assert memory.room_for_another(third, [gone])
    assert not memory.room_for_another(third, [gone, gone + 1, gone + 2])
