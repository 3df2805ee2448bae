"""Metadata through whole runs: from a clinic's table to what its site is told, in every way to train."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import fedderm
from federations import local, new_run, run_in_memory, weights
from hospitals import Hospital
from site_images import write_images

from fedderm import config
from fedderm.node import open_site
from fedderm.predictor import Predictor
from sites.metadata import FIELDS, encoded

WEST, EAST, AWAY = range(3)
BESIDE = {"triage_of_metadata.weight", "differentiation_of_metadata.weight"}
TOLD = {"model": {"metadata": list(FIELDS)}}


def documents(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation" / "sites.json").read_text())


@pytest.mark.parametrize("trunk", ["trained", "frozen", "lora"])
def test_a_run_learns_from_them_and_its_sites_judge_with_their_own(root: Path, trunk: str) -> None:
    backbone = {"backbone": "test_vit", "image_size": 160} if trunk == "lora" else {}
    folder = new_run(
        root, rounds=1, model={**TOLD["model"], **backbone}, training={"trunk": trunk, "learning_rate": 0.01}
    )
    grid = run_in_memory(folder)
    carried = [set(record) for _, message in grid.messages if (record := message.content.get("arrays"))]
    assert all(names >= BESIDE for names in carried)
    learned = weights(folder.path)["triage_of_metadata.weight"]
    assert learned.shape == (1, 12)
    assert np.abs(learned).max() > 1e-3
    site = local(folder, AWAY)
    assert site.metadata_fields == FIELDS
    rows = site.rows("test")
    np.testing.assert_array_equal(site.known(rows), encoded(site.table.iloc[rows], FIELDS))
    predictor = Predictor.open(folder.path)
    scores = site.score(predictor.model, "test", 1, "auto").scores
    moved = scores.triage - predictor_alone(site, predictor, rows)
    expected = (site.known(rows) - encoded(site.table.iloc[rows].assign(**dict.fromkeys(FIELDS)), FIELDS)) @ (
        learned[0]
    )
    np.testing.assert_allclose(moved, expected, atol=1e-3)
    told = documents(folder.path)["away"]["splits"]["test"]["images"]
    assert told == len(rows)


def predictor_alone(site: Any, predictor: Predictor, rows: np.ndarray) -> np.ndarray:
    """Return the logits of ``rows`` by pixels alone."""
    return np.concatenate([predictor.scores(site.pixels[row]).triage for row in rows])


def test_the_pooled_baseline_has_every_sites_own(root: Path) -> None:
    folder = new_run(root, rounds=1, baseline="pooled", **TOLD)
    run_in_memory(folder)
    assert np.abs(weights(folder.path)["triage_of_metadata.weight"]).max() > 1e-4


def test_a_hospital_judges_offline_what_the_federation_judged(root: Path, tmp_path: Path) -> None:
    """The numbers come from the hospital's table both times; a model without them is judged otherwise."""
    folder = new_run(root, rounds=1, training={"learning_rate": 0.01}, **TOLD)
    run_in_memory(folder)
    away = Hospital(root, tmp_path, "away")
    done = fedderm("evaluate", folder.path, "--site", away.file, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert documents(tmp_path / "out") == {"away": documents(folder.path)["away"]}


def test_a_hospitals_own_columns_and_gaps(tmp_path: Path) -> None:
    """Its words for age, sex and place; a place that is no word of ours; a table without two of them."""
    photos = write_images(tmp_path / "clinic", 4)
    rows = ["file,dx,Alter,Geschlecht,Ort", "img00.png,mel,70 Jahre,m,back", "img01.png,nv,,f,links"]
    rows += ["img02.png,nv,30,,scalp", "img03.png,mel,50,female,"]
    (photos / "table.csv").write_text("\n".join(rows) + "\n")
    named = {"age": "Alter", "sex": "Geschlecht", "anatom_site": "Ort"}
    site = {
        "name": "clinic",
        "source": "folder",
        "path": str(photos),
        "columns": {"image_id": "file", "diagnosis": "dx", **named},
        "role": "held-out",
        "splits": {"train": 0, "calibration": 0, "test": 1},
    }
    base = {"name": "x", "work_dir": str(tmp_path / "w"), "model": {"image_size": 32, **TOLD["model"]}}

    def known(described: dict[str, Any]) -> np.ndarray:
        sites = [{"name": "far", "source": "simulated", "lesions": 20}, described]
        experiment = config.parse({**base, "sites": sites})
        opened = open_site(experiment, experiment.sites[1], "", frozenset())
        return opened.known(np.arange(4))

    found = known(site)
    assert found[0].tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert found[1].tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert found[2].tolist() == [-1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert found[3].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    (photos / "table.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows) + "\n")
    columns = {key: name for key, name in site["columns"].items() if key != "anatom_site"}  # type: ignore[attr-defined]
    np.testing.assert_array_equal(known({**site, "columns": columns})[:, 5:], [[0] * 6 + [1]] * 4)
