"""Heads that no training site taught: named as the run starts, written into the model, not shown in use."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import Notes, new_run, run_in_memory
from test_predict import trained

from fedderm.model_folder import model_folder, read_description
from fedderm.predictor import Predictor
from fedderm.settings import ModelSettings
from fedderm.untaught import NOTHING, Untaught
from sites.diagnoses import BCC_PATTERNS, CLASSES
from sites.diagnosis_schemes import NAMES

FULL = ModelSettings.model_validate(
    {"backbone": "test_resnet", "pretrained": "none", "patterns": True, "diagnoses": "eleven"}
)


def test_what_one_site_teaches_is_taught() -> None:
    cards = [
        {"classes": ["benign", "MEL"], "patterns": [], "diagnoses": ["MEL", "NV"]},
        {"classes": ["benign", "BCC"], "patterns": ["ovoid_nests"], "diagnoses": ["NV", "BCC"]},
    ]
    found = Untaught.at(FULL, cards)
    assert found.classes == ("SCC",)
    assert found.patterns == tuple(one for one in BCC_PATTERNS if one != "ovoid_nests")
    assert found.diagnoses == tuple(one for one in NAMES["eleven"] if one not in ("MEL", "NV", "BCC"))
    assert Untaught.of({"untaught": json.loads(json.dumps(found.as_dict()))}) == found
    assert "an image of SCC, nor annotations of pigment network, ulceration" in found.sentence()


def test_a_head_that_the_model_lacks_is_no_matter() -> None:
    plain = ModelSettings.model_validate({"backbone": "test_resnet", "scheme": "binary"})
    assert Untaught.at(plain, [{"classes": ["benign", "MEL"], "patterns": [], "diagnoses": []}]) == NOTHING
    assert NOTHING.sentence() == ""
    assert Untaught.of({}) == NOTHING, "a model of an earlier version"


@pytest.mark.parametrize("damaged", [[], "SCC", {"classes": "SCC"}])
def test_a_damaged_description_is_a_sentence(tmp_path: Path, damaged: Any) -> None:
    folder = trained(tmp_path)
    path = folder.path / "model" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "untaught": damaged}))
    with pytest.raises(ValueError, match=r"model.json: is damaged \(untaught: expected lists of names\)"):
        Predictor.open(folder.path)


def test_an_ensemble_cannot_tell_what_one_member_cannot() -> None:
    one, other = Untaught(classes=("SCC",), diagnoses=("DF",)), Untaught(classes=("SCC", "BCC"))
    assert one | other == Untaught(classes=("SCC", "BCC"), diagnoses=("DF",))


def prediction(root: Path, **untaught: tuple[str, ...]) -> dict[str, Any]:
    """Return what a model of random weights says of noise where some of its heads were taught by nobody."""
    folder = trained(root, patterns=True, diagnoses="seven", scheme="cascade")
    predictor = replace(Predictor.open(folder.path), untaught=Untaught(**untaught))
    pixels = np.random.default_rng(1).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return predictor.predict_square(Path("noise"), pixels).as_dict()


def test_it_is_left_out_of_a_prediction_and_shares_add_up_without_it(tmp_path: Path) -> None:
    whole = prediction(tmp_path)
    part = prediction(tmp_path, classes=("SCC",), patterns=("ulceration",), diagnoses=("VASC", "DF", "NV"))
    assert whole["decision"] == part["decision"] == "malignant"
    assert set(whole["differential"]) - set(part["differential"]) == {"SCC"}
    assert set(whole["patterns"]) - set(part["patterns"]) == {"ulceration"}
    assert set(whole["diagnoses"]) - set(part["diagnoses"]) == {"VASC", "DF", "NV"}
    for head in ("differential", "diagnoses"):
        left = {name: whole[head][name] for name in part[head]}
        expected = {name: share / sum(left.values()) for name, share in left.items()}
        assert part[head] == pytest.approx(expected, abs=1e-4)
    assert part["patterns"] == {name: whole["patterns"][name] for name in part["patterns"]}
    nothing = prediction(tmp_path, classes=CLASSES[1:], patterns=BCC_PATTERNS, diagnoses=NAMES["seven"])
    assert nothing["differential"] == nothing["patterns"] == nothing["diagnoses"] == {}
    assert nothing["probability"] == whole["probability"]


@pytest.mark.parametrize(
    ("untaught", "told"),
    [((), True), (BCC_PATTERNS[:1], False), (BCC_PATTERNS[1:], False), (BCC_PATTERNS[1:6], True)],
)
def test_the_clinical_rule_needs_the_network_and_one_criterion(
    tmp_path: Path, untaught: tuple[str, ...], told: bool
) -> None:
    assert (prediction(tmp_path, patterns=untaught)["rule_suggests_bcc"] is not None) == told


@pytest.mark.parametrize("annotators", [0, 3])
def test_a_run_says_at_its_start_what_nobody_teaches(root: Path, annotators: int) -> None:
    more = {"annotators": annotators} if annotators else {}
    sites = [
        {"name": "west", "lesions": 40, **more},
        {"name": "away", "lesions": 36, "role": "held-out", "annotators": 3},
    ]
    folder = new_run(root, sites, rounds=1, model={"patterns": True, "scheme": "binary"})
    notes = Notes()
    run_in_memory(folder, notes=notes)
    found = read_description(model_folder(folder.path))["untaught"]
    assert found["patterns"] == ([] if annotators else list(BCC_PATTERNS))
    told = [one for one in notes.warnings if "No training site had annotations of pigment network" in one]
    assert len(told) == (not annotators)
    image = next(folder.experiment.work_dir.rglob("*.jpg"))
    said = Predictor.open(folder.path).predict(image)
    assert list(said.patterns or {}) == (list(BCC_PATTERNS) if annotators else [])
    assert (said.rule_suggests_bcc is None) == (not annotators)
    assert said.bcc is not None, "BCC is learned from diagnoses"
