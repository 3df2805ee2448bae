"""A model judged at a hospital, offline and in a federation: the same numbers, and predictions that stay."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import clinic, fedderm
from federations import AppGrid, local, new_run, run_in_memory
from hospitals import Hospital, experiment

from fedderm import messages
from fedderm.evaluation.documents import OperatingPoint
from fedderm.runs import RunFolder
from fedderm.weights import read_arrays
from fedderm.worker_models import worker_model

Finished = tuple[RunFolder, AppGrid]


def documents(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation" / "sites.json").read_text())


def offline(model: Path, hospital: Hospital, out: Path) -> dict[str, Any]:
    done = fedderm("evaluate", model, "--site", hospital.file, "--out", out)
    assert done.code == 0, done.err
    return documents(out)


def test_offline_and_federation_give_one_document(finished: Finished, root: Path, tmp_path: Path) -> None:
    """From the run, from its model's folder alone and elsewhere, and from the file of weights in it."""
    run = finished[0].path
    away = Hospital(root, tmp_path, "away")
    expected = {"away": documents(run)["away"]}
    assert expected["away"]["after"]["lesion"]["metrics"]["auc"]["lower"] is not None
    assert expected["away"]["shift"]["verdict"]
    model = tmp_path / "handed_over"
    shutil.copytree(run / "model", model)
    assert offline(model, away, tmp_path / "first") == expected
    assert offline(model / "model.safetensors", away, tmp_path / "second") == expected
    table = pd.read_csv(tmp_path / "first" / "evaluation" / "metrics.csv")
    whole = pd.read_csv(run / "evaluation" / "metrics.csv")
    pd.testing.assert_frame_equal(
        table[table["site"] == "away"].reset_index(drop=True),
        whole[whole["site"] == "away"].reset_index(drop=True),
    )


def test_a_hospital_that_hides_small_cells_and_normalises_for_itself(root: Path, tmp_path: Path) -> None:
    """SiloBN gives a held-out site statistics of its own images; its minimum hides what is small."""
    sites = [
        {"name": "west", "lesions": 40},
        {"name": "away", "lesions": 36, "role": "held-out", "min_cell": 8},
    ]
    folder = new_run(root, sites, strategy={"name": "silobn"}, rounds=1)
    run_in_memory(folder)
    away = Hospital(root, tmp_path, "away", min_cell=8)
    assert offline(folder.path, away, tmp_path / "out") == {"away": documents(folder.path)["away"]}
    other = Hospital(root, tmp_path / "open", "away")
    assert offline(folder.path, other, tmp_path / "other") != {"away": documents(folder.path)["away"]}


def test_the_report_speaks_of_this_hospital_alone(finished: Finished, root: Path, tmp_path: Path) -> None:
    away = Hospital(root, tmp_path, "away")
    done = fedderm("evaluate", finished[0].path, "--site", away.file)
    assert done.code == 0, done.err
    (folder,) = (away.record.folder / "evaluations").iterdir()
    assert f"report: {folder / 'report.html'}" in done.out
    page = (folder / "report.html").read_text()
    assert "away" in page
    assert not re.search(r"\bwest\b|\beast\b", re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL))
    again = fedderm("report", folder)
    assert again.code == 0, again.err
    assert {one.name for one in folder.iterdir()} >= {
        "papers",
        "predictions.csv",
        "evaluation",
        "config.yaml",
    }


def test_predictions_are_the_models_own(finished: Finished, root: Path, tmp_path: Path) -> None:
    run = finished[0]
    away = Hospital(root, tmp_path, "away")
    offline(run.path, away, tmp_path / "out")
    found = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype={"image_id": str})
    site = local(run, 2)
    model = worker_model(run.experiment, read_arrays(run.path / "model" / "model.safetensors"))
    document = documents(run.path)["away"]
    for split in ("calibration", "test"):
        part = found[found["split"] == split]
        assert part["image_id"].tolist() == site.table["image_id"].iloc[site.rows(split)].tolist()
        scores = site.score(model, split, 1, "float32").scores
        np.testing.assert_allclose(part["logit"], scores.triage, rtol=1e-6)
    for name in ("federation", "site"):
        point = OperatingPoint.model_validate(document[f"{name}_point"])
        expected = np.where(found["logit"] >= point.threshold, "malignant", "benign")
        assert found[f"decision_{name}"].tolist() == expected.tolist()
        assert ((found[f"probability_{name}"] >= 0) & (found[f"probability_{name}"] <= 1)).all()


def test_predictions_stay_at_the_hospital(finished: Finished, root: Path, tmp_path: Path) -> None:
    """Beside its site file; what leaves is the document and counts, with no image's id or logit."""
    run, grid = finished
    (_, sent) = next(
        (to, one)
        for to, one in grid.messages
        if to == 2 and one.metadata.message_type == messages.RECALIBRATE
    )
    away = Hospital(root, tmp_path, "away")
    sent.metadata.__dict__["_run_id"] = 77
    reply = away.asked(sent)
    kept = away.record.predictions / "tiny-77.csv"
    table = pd.read_csv(kept, dtype={"image_id": str})
    assert len(table) == sum(size["images"] for size in documents(run.path)["away"]["splits"].values())
    assert kept.stat().st_mode & 0o777 == 0o600
    document, _ = messages.read_evaluation(reply)
    assert json.loads(document) == documents(run.path)["away"]
    for image in table["image_id"]:
        assert image not in document
    names = [one["name"] for one in away.log()[-1]["records"]]
    assert names == ["evaluation", "counts", "replicates"]
    assert all(one["kind"] != "MetricRecord" for one in away.log()[-1]["records"])


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("west", {}, "site west: the model learned from west, east; what it is worth there is in"),
        (
            "west",
            {"role": "held-out", "splits": {"train": 0, "calibration": 0.5, "test": 0.5}},
            "site west: the model learned from west, east; what it is worth",
        ),
        (
            "west",
            {"calls_itself": "north"},
            "site north: the model learned from west, east; set role: held-out",
        ),
    ],
)
def test_a_model_is_not_judged_on_what_it_learned_from(
    finished: Finished, root: Path, tmp_path: Path, name: str, changes: dict[str, Any], expected: str
) -> None:
    changes = dict(changes)
    another = changes.pop("calls_itself", name)
    hospital = Hospital(root, tmp_path, name, **changes)
    hospital.file.write_text(hospital.file.read_text().replace(f"name: {name}", f"name: {another}"))
    told = fedderm("evaluate", finished[0].path, "--site", hospital.file, "--out", tmp_path / "o").sentence()
    assert told.startswith(expected)
    assert not (tmp_path / "o").exists()


def test_mistakes_are_sentences(finished: Finished, root: Path, tmp_path: Path) -> None:
    run, away = finished[0].path, Hospital(root, tmp_path, "away")
    told = fedderm("evaluate", run).sentence()
    assert told == "fedderm evaluate: give either --site SITE.yaml or --against RUN"
    assert fedderm("evaluate", run, "--site", away.file, "--against", run).sentence() == told
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    assert (
        "holds something already" in fedderm("evaluate", run, "--site", away.file, "--out", full).sentence()
    )
    assert "holds no model" in fedderm("evaluate", tmp_path, "--site", away.file).sentence()
    assert "cannot be read" in fedderm("evaluate", run, "--site", tmp_path / "absent.yaml").sentence()
    old = tmp_path / "old"
    shutil.copytree(run / "model", old)
    described = json.loads((old / "model.json").read_text())
    for key, expected in (("recipe", "it has no recipe"), ("evidence", "is damaged ('evidence')")):
        (old / "model.json").write_text(json.dumps({k: v for k, v in described.items() if k != key}))
        assert expected in fedderm("evaluate", old, "--site", away.file).sentence()


def test_a_models_recipe_names_no_folder(root: Path, tmp_path: Path) -> None:
    from fedderm.recipe import recipe_of

    run = experiment(root, model={"pretrained": str(tmp_path / "secret" / "w.safetensors")})
    told = recipe_of(run).model_dump_json()
    assert str(root) not in told
    assert str(tmp_path) not in told
    assert recipe_of(run).prevalence_free == run.prevalence_free


def test_a_table_without_the_metadata_of_the_model_is_told_before_and_in_the_report(
    root: Path, tmp_path: Path
) -> None:
    folder = new_run(root, rounds=1, model={"metadata": ["age"]})
    run_in_memory(folder)
    photos = clinic(tmp_path)
    site = tmp_path / "clinic.yaml"
    described = {"name": "clinic", "source": "folder", "path": str(photos), "role": "held-out"}
    site.write_text(yaml.safe_dump({**described, "work_dir": str(tmp_path / "cache")}))
    done = fedderm("evaluate", folder.path, "--site", site, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    told = " ".join((done.out + done.err).split())
    assert "site clinic: the model takes age, which no image here has in words that it knows" in told
    page = (tmp_path / "out" / "report.html").read_text()
    assert "A model that was trained at 2 other sites is judged at clinic, which took no part." in page
    assert "It takes age, which no image here has: it was counted as missing everywhere." in page


def test_a_list_of_sites_is_no_site_file(finished: Finished, tmp_path: Path) -> None:
    site = tmp_path / "sites.yaml"
    site.write_text("sites:\n  - {name: clinic, source: folder, path: images}\n")
    told = fedderm("evaluate", finished[0].path, "--site", site).sentence()
    assert told.startswith(f"{site}: holds a list of sites, as a config does; a site file is one site")
