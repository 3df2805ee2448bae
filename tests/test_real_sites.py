"""One tiny round over slices of the real sites: their files, their splits, their report."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from federations import Notes, new_run, run_in_memory, weights

from fedderm import config
from fedderm.runs import RunFolder
from sites.giving_way import AuditRefused

# The sites of configs/real.yaml but one, a part of each.
SLICED = {"slice": {"index": 0, "of": 8}}
SITES = [
    {"name": "vidir_modern", "source": "ham10000", "select": {"dataset": "vidir_modern"}, **SLICED},
    {"name": "rosendahl", "source": "ham10000", "select": {"dataset": "rosendahl"}, **SLICED},
    {
        "name": "msk",
        "source": "isic2019",
        "select": {"acquisition": "MSK4"},
        "only_present": True,
        "gives_way_to": ["msk"],
        "slice": {"index": 0, "of": 3},
    },
    {
        "name": "vienna_dias",
        "source": "ham10000",
        "select": {"dataset": "vienna_dias"},
        "role": "held-out",
        "slice": {"index": 0, "of": 3},
    },
    {
        "name": "uda1",
        "source": "folder",
        "path": "uda1",
        "role": "held-out",
        "columns": {"image_id": "image"},
        "slice": {"index": 0, "of": 3},
    },
]


@pytest.fixture(scope="module")
def finished(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("real")
    folder = new_run(
        root,
        SITES,
        data_root=str(shared_data),
        rounds=1,
        training={"batch_size": 32, "head_start": "ridge"},
        strategy={"weighting": "effective"},
    )
    run_in_memory(folder)
    return folder


@pytest.mark.slow
def test_the_real_sites_train_are_tested_and_reported(finished: RunFolder) -> None:
    documents = json.loads((finished.path / "evaluation" / "sites.json").read_text())
    assert list(documents) == [site["name"] for site in SITES]
    for name, document in documents.items():
        image = document["before"]["image"]
        assert 0 < image["positives"] < image["n"], name
        auc = image["metrics"]["auc"]
        assert 0 <= auc["lower"] <= auc["value"] <= auc["upper"] <= 1, name
    for name in ("vienna_dias", "uda1"):
        assert "train" not in documents[name]["splits"]
    history = json.loads((finished.path / "rounds" / "state.json").read_text())["history"]
    assert list(history[0]["sites"]) == ["vidir_modern", "rosendahl", "msk"]
    assert all(np.isfinite(value).all() for value in weights(finished.path).values())

    page = (finished.path / "report.html").read_text()
    assert all(name in page for name in documents)
    assert len(list((finished.path / "gallery").glob("*.jpg"))) == len(SITES)


@pytest.mark.slow
def test_images_of_the_real_sites_are_in_one_split_of_one_site(finished: RunFolder) -> None:
    """Counted from the sources' own tables, not from the audit that is to be checked."""
    ham = pd.read_csv(finished.experiment.data_root / "ham10000" / "HAM10000_metadata")  # type: ignore[operator]
    lesions = {name: set(part["lesion_id"]) for name, part in ham.groupby("dataset")}
    documents = json.loads((finished.path / "evaluation" / "sites.json").read_text())
    for name in ("vidir_modern", "rosendahl"):
        held = sum(size["lesions"] for size in documents[name]["splits"].values())
        assert held == pytest.approx(len(lesions[name]) / 8, rel=0.25), "an eighth, less what AK excludes"
    audit = json.loads((finished.path / "audit.json").read_text())
    assert set(audit["checked"]) == set(documents)


@pytest.mark.slow
def test_a_hospital_with_copies_of_ham10000s_images_under_other_names_is_refused(
    shared_data: Path, tmp_path: Path
) -> None:
    """Only the pixels can tell: ids and lesions are the hospital's own."""
    source = shared_data / "ham10000" / "HAM10000_images"
    table = pd.read_csv(shared_data / "ham10000" / "HAM10000_metadata")
    modern = table[table["dataset"] == "vidir_modern"]
    some = pd.concat([modern[modern["dx"] == dx].head(20) for dx in ("mel", "nv")])
    copy = tmp_path / "copy"
    copy.mkdir()
    for number, image in enumerate(some["image_id"]):
        shutil.copy(next(source.rglob(f"{image}.jpg")), copy / f"case{number}.jpg")
    names = [f"case{number}" for number in range(len(some))]
    pd.DataFrame({"image_id": names, "diagnosis": list(some["dx"])}).to_csv(copy / "t.csv", index=False)
    sites = [
        {"name": "ham", "source": "ham10000", "select": {"dataset": "vidir_modern"}, **SLICED},
        {"name": "hospital", "source": "folder", "path": str(copy)},
    ]
    notes, folder = Notes(), new_run(tmp_path, sites, data_root=str(shared_data))
    with pytest.raises(AuditRefused, match="identical pixels"):
        run_in_memory(folder, notes=notes)
    assert notes.stages == []


def test_the_real_config_is_valid_and_names_the_sites_of_the_experiment() -> None:
    experiment = config.load(Path(__file__).resolve().parents[1] / "configs" / "real.yaml")
    roles = {site.name: site.role for site in experiment.sites}
    assert roles == {
        "vidir_modern": "train",
        "rosendahl": "train",
        "vidir_molemax": "train",
        "msk": "train",
        "vienna_dias": "held-out",
        "uda1": "held-out",
    }
