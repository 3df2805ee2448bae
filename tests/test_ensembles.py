"""Several models as one: probabilities by hand from the members', votes counted, no threshold borrowed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import clinic, fedderm
from federations import AppGrid, new_run, run_in_memory
from hospitals import Hospital
from scipy.special import expit, logit, softmax
from test_predict import trained

from fedderm.devices import seeded
from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.documents import OperatingPoint
from fedderm.inference import score_images
from fedderm.model.cascade import Cascade
from fedderm.model.ensemble import VOTE_SCALE, Ensemble, Member
from fedderm.predictor import Predictor
from fedderm.recipe import recipe_of
from fedderm.runs import RunFolder
from fedderm.settings import ModelSettings

pytestmark = pytest.mark.usefixtures("one_thread")
PIXELS = np.random.default_rng(5).integers(0, 256, (6, 48, 48, 3), dtype=np.uint8)
MAPS: list[dict[str, Any]] = [
    {"calibration": "platt", "slope": 2.0, "intercept": 0.25},
    {"calibration": "beta", "slope": 1.0, "intercept": 0.0, "beta": (1.5, 0.5, 0.1)},
    {
        "calibration": "isotonic",
        "slope": 1.0,
        "intercept": 0.0,
        "knots": [(-1.0, 0.1), (0.5, 0.4), (2.0, 0.9)],
    },
]


def member(seed: int, backbone: str = "test_resnet", **changes: Any) -> Member:
    """Return a net of random weights, one of three kinds of maps, and a threshold of its own."""
    seeded([seed])
    model = Cascade(ModelSettings(backbone=backbone, pretrained="none", image_size=48))
    for _, head in model.heads():
        torch.nn.init.normal_(head.weight)  # type: ignore[arg-type]
    point = OperatingPoint(
        threshold=0.1 * seed, threshold_probability=0.5, origin="Here.", **{**MAPS[seed % 3], **changes}
    )
    return Member(model.eval(), point)


def said(model: Any, views: int = 1) -> Any:
    return score_images(model, PIXELS, np.arange(len(PIXELS)), views, "float32")


def test_the_average_is_of_calibrated_probabilities_whatever_the_backbone() -> None:
    members = [member(1), member(2, "test_vit"), member(3, "test_efficientnet")]
    each = [said(one.model) for one in members]
    ensemble = Ensemble(members, ModelSettings(pretrained="none", image_size=48), "average").eval()
    found = said(ensemble)
    calibrated = [
        CalibrationMap.of(one.point).probabilities(s.triage) for one, s in zip(members, each, strict=True)
    ]
    assert np.std(calibrated, axis=0).min() > 1e-3, "members that agree would prove nothing"
    np.testing.assert_allclose(expit(found.triage), np.mean(calibrated, axis=0), atol=1e-5)
    kinds = np.mean([softmax(one.differential, axis=1) for one in each], axis=0)
    np.testing.assert_allclose(softmax(found.differential, axis=1), kinds, atol=1e-5)
    np.testing.assert_allclose(
        found.features, np.concatenate([one.features for one in each], axis=1), atol=1e-5
    )


def test_diagnoses_are_the_mean_of_the_members_shares() -> None:
    members = [member(seed) for seed in (1, 2)]
    for seed, one in enumerate(members):
        seeded([seed])
        one.model.diagnoses = torch.nn.Linear(one.model.triage.in_features, 7)
    settings = ModelSettings(pretrained="none", image_size=48, diagnoses="seven")
    found = said(Ensemble(members, settings, "average").eval()).diagnoses
    expected = np.mean([softmax(said(one.model).diagnoses, axis=1) for one in members], axis=0)
    assert np.abs(np.diff([said(one.model).diagnoses for one in members], axis=0)).max() > 0.1
    np.testing.assert_allclose(softmax(found, axis=1), expected, atol=1e-5)


def test_a_vote_is_the_share_of_members_at_their_own_thresholds() -> None:
    """Over mirrored views each member votes on each."""
    members = [member(seed) for seed in (1, 2, 3)]
    members = [
        Member(
            one.model, one.point.model_copy(update={"threshold": float(np.median(said(one.model).triage))})
        )
        for one in members
    ]
    ensemble = Ensemble(members, ModelSettings(pretrained="none", image_size=48), "vote").eval()
    votes = np.mean([said(one.model).triage >= one.point.threshold for one in members], axis=0)
    assert 0 < votes.mean() < 1
    np.testing.assert_allclose(said(ensemble).triage, VOTE_SCALE * (votes - 0.5), atol=1e-5)
    flipped = [PIXELS, PIXELS[:, :, ::-1]]
    both = np.mean(
        [
            score_images(one.model, view, np.arange(6), 1, "float32").triage >= one.point.threshold
            for one in members
            for view in flipped
        ],
        axis=0,
    )
    np.testing.assert_allclose(said(ensemble, 2).triage, VOTE_SCALE * (both - 0.5), atol=1e-5)


def test_equal_trunks_are_passed_once_and_say_the_same() -> None:
    """Two heads on one frozen trunk; a third member of another trunk keeps its own."""
    first, other = member(1), member(2)
    same = member(4)
    same.model.trunks.load_state_dict(first.model.trunks.state_dict())
    expected = np.mean(
        [CalibrationMap.of(one.point).probabilities(said(one.model).triage) for one in (first, same, other)],
        axis=0,
    )
    ensemble = Ensemble(
        [first, same, other], ModelSettings(pretrained="none", image_size=48), "average"
    ).eval()
    found = said(ensemble)
    assert found.features.shape[1] == 2 * first.model.triage.in_features
    assert same.model.trunks is first.model.trunks
    np.testing.assert_allclose(found.triage, logit(expected), atol=1e-4)


def run_folder(root: Path, views: int = 2, **model: Any) -> Path:
    """Return the folder of a run of random weights that can be a member."""
    root.mkdir()
    folder = trained(root, views, **model)
    path = folder.path / "model" / "model.json"
    recipe = recipe_of(folder.experiment).model_dump(mode="json")
    told = {**json.loads(path.read_text()), "recipe": recipe, "training_sites": ["coast"]}
    path.write_text(json.dumps(told))
    return folder.path


def test_without_its_sites_an_ensemble_has_no_threshold_and_says_so(tmp_path: Path) -> None:
    """The members' federations have one each: neither is the ensemble's."""
    image = clinic(tmp_path) / "i0.png"
    runs = [run_folder(tmp_path / name) for name in "ab"]
    out = tmp_path / "both"
    made = fedderm("ensemble", out, *runs)
    assert made.code == 0, made.err
    assert "this ensemble has no operating point" in " ".join(made.out.split())
    for command in (("predict", out, image), ("export", out, "--to", tmp_path / "m.onnx")):
        assert fedderm(*command).sentence().startswith("this ensemble has no operating point")
    assert not list(tmp_path.glob("m.*"))
    for options, sentence in (
        ((tmp_path / "one", runs[0]), "expected two or more models, found 1"),
        ((out, *runs), "holds something already"),
        ((tmp_path / "same", runs[0], runs[1], runs[0] / "model"), f"{runs[0]}/model: is named twice"),
        ((tmp_path / "deep", out, runs[0]), "is itself an ensemble; name its members"),
        (
            (tmp_path / "size", runs[0], run_folder(tmp_path / "c", image_size=32)),
            f"model.image_size is 32, and of {runs[0]} it is 48",
        ),
        (
            (tmp_path / "views", runs[0], run_folder(tmp_path / "d", 1)),
            f"evaluation.views is 1, and of {runs[0]} it is 2",
        ),
        (
            (tmp_path / "kind", runs[0], run_folder(tmp_path / "e", scheme="binary")),
            f"its scheme is 'binary', and of {runs[0]} it is 'of four classes'",
        ),
    ):
        assert sentence in fedderm("ensemble", *options).sentence()


Finished = tuple[RunFolder, AppGrid]


def test_a_fitted_ensemble_is_a_model_like_any_other(finished: Finished, root: Path, tmp_path: Path) -> None:
    """Of a run and its copy: the members' mean is that run's own calibrated probability, and ranks alike."""
    run = finished[0].path
    out = tmp_path / "twice"
    copy = shutil.copytree(run, tmp_path / "copy")
    made = fedderm("ensemble", out, run, copy, "--data-root", root)
    assert made.code == 0, made.err
    here, there = (json.loads((one / "evaluation" / "sites.json").read_text()) for one in (out, run))
    assert list(here) == list(there)
    for name, one in here.items():
        auc = there[name]["before"]["lesion"]["metrics"]["auc"]["value"]
        assert one["before"]["lesion"]["metrics"]["auc"]["value"] == pytest.approx(auc, abs=0.02)
        assert one["splits"] == there[name]["splits"]
    description = json.loads((out / "model.json").read_text())
    assert "unfitted" not in description
    assert "The pooled calibration splits of the training sites." in description["federation_point"]["origin"]
    image = clinic(tmp_path) / "i0.png"
    listed = fedderm("predict", out, image, "--json")
    assert listed.code == 0, listed.err
    line = json.loads(listed.out)
    logits = Predictor.open(run).logits(image)[0]
    member = CalibrationMap.of(Predictor.open(run).point).probabilities(logits)[0]
    point = OperatingPoint.model_validate(description["federation_point"])
    expected = CalibrationMap.of(point).probabilities(np.array([logit(member)]))[0]
    assert line["probability"] == pytest.approx(expected, abs=1e-4)
    told = fedderm("explain", out, image, "--to", tmp_path / "page").sentence()
    assert told.startswith("fedderm explain looks into one network, and this is an ensemble")


def test_an_unfitted_ensemble_gets_its_threshold_at_a_hospital(
    finished: Finished, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "both"
    run = finished[0].path
    made = fedderm("ensemble", out, run, shutil.copytree(run, tmp_path / "copy"), "--combine", "vote")
    assert made.code == 0, made.err
    away = Hospital(root, tmp_path, "away")
    done = fedderm("evaluate", out, "--site", away.file, "--out", tmp_path / "report")
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "report" / "evaluation" / "sites.json").read_text())["away"]
    assert told["federation_point"]["origin"].startswith("Not fitted: one half of what the members say.")
    assert told["before"]["lesion"]["n"] > 0


def test_members_whose_lesions_are_split_otherwise_are_not_fitted(
    finished: Finished, root: Path, tmp_path: Path
) -> None:
    other = new_run(root, seed=8, rounds=1)
    run_in_memory(other)
    found = fedderm("ensemble", tmp_path / "out", finished[0].path, other.path, "--data-root", root)
    assert "seeds 7 and 8: their test lesions differ" in found.sentence()
    assert not (tmp_path / "out").exists()


def test_an_ensemble_is_exported_with_its_members_inside(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    runs = [run_folder(tmp_path / "a"), run_folder(tmp_path / "b", backbone="test_vit")]
    out = tmp_path / "both"
    assert fedderm("ensemble", out, *runs).code == 0
    described = json.loads((out / "model.json").read_text())
    described.pop("unfitted")  # as when it was fitted: no site is needed to see that the graph is right
    (out / "model.json").write_text(json.dumps(described))
    told = fedderm("export", out, "--to", tmp_path / "m.onnx")
    assert told.code == 0, told.err
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(["probability"], {"pixels": PIXELS})[0]
    expected = score_images(Predictor.open(out).model, PIXELS, np.arange(6), 2, "float32").triage
    np.testing.assert_allclose(found, expit(expected), atol=1e-4)
