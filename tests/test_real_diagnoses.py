"""Diagnoses of the real sources: their labels, and one fold of a small run over real images."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from federations import new_run, run_in_memory

from sites.catalogue import load_site
from sites.diagnosis_schemes import NAMES, diagnosis_labels
from sites.ham10000 import HAM10000Site
from sites.milk10k import TRUTH, Milk10kSite

AKIEC = 327
"""HAM10000's akiec images: 130 actinic keratosis, 197 carcinoma in situ."""
FOLD = {"fold": {"index": 1, "of": 5}, "slice": {"index": 0, "of": 8}, "ak_policy": "malignant"}


def test_ham10000s_akiec_is_akiec_in_both_schemes_unless_the_policy_excludes_it(
    shared_data: Path, tmp_path: Path
) -> None:
    for policy, seven in (("malignant", AKIEC), ("exclude", 197)):
        site = HAM10000Site.model_validate({"name": "ham", "source": "ham10000", "ak_policy": policy})
        table = load_site(site, shared_data, tmp_path, 7).table
        for scheme in ("seven", "eleven"):
            found = diagnosis_labels(table, scheme)
            counts = dict(zip(NAMES[scheme], np.bincount(found, minlength=len(NAMES[scheme])), strict=True))
            assert counts["AKIEC"] == seven
            # The other six are HAM10000's own figures.
            assert [counts[name] for name in ("MEL", "NV", "BCC", "BKL", "DF", "VASC")] == [
                1113, 6705, 514, 1099, 115, 142,
            ]  # fmt: skip


def test_milk10ks_labels_are_its_ground_truth(shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / "milk10k" / TRUTH).is_file():
        pytest.skip("MILK10k's tables are not at hand")
    site = Milk10kSite.model_validate({"name": "milk", "source": "milk10k"})
    raw = site.read(shared_data, tmp_path, 7)
    truth = pd.read_csv(shared_data / "milk10k" / TRUTH).set_index("lesion_id")[list(NAMES["eleven"])]
    official = truth.loc[raw["lesion_id"]].to_numpy().argmax(axis=1)
    np.testing.assert_array_equal(diagnosis_labels(raw, "eleven"), official)


@pytest.mark.slow
def test_a_fold_of_real_images_is_trained_and_told(shared_data: Path, tmp_path: Path) -> None:
    sites = [
        {"name": name, "source": "ham10000", "select": {"dataset": name}, "gives_way_to": [name], **FOLD}
        for name in ("vidir_modern", "rosendahl")
    ]
    folder = new_run(
        tmp_path,
        sites,
        data_root=str(shared_data),
        rounds=1,
        model={"diagnoses": "seven", "backbone": "tf_efficientnet_lite0", "pretrained": "package"},
        training={"trunk": "frozen", "local_epochs": 4, "batch_size": 16, "learning_rate": 0.003},
        strategy={"weighting": "equal"},
    )
    run_in_memory(folder)
    documents = json.loads((folder.path / "evaluation" / "sites.json").read_text())
    lesions = 0
    for document in documents.values():
        sizes = document["splits"]
        told = document["diagnosis_head"]["splits"]["test"]["lesion"]
        # A fifth of the lesions, all of which have one of the seven diagnoses.
        everyone = sum(one["lesions"] for one in sizes.values())
        assert told["n"] == sizes["test"]["lesions"] == pytest.approx(everyone / 5, abs=3)
        interval = told["macro_f1"]
        assert 0 <= interval["lower"] <= interval["upper"] <= 1
        lesions += told["n"]
    federation = json.loads((folder.path / "evaluation" / "federation.json").read_text())
    assert federation["diagnosis_head"]["splits"]["train"]["lesion"]["n"] == lesions
