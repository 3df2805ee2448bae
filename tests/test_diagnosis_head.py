"""The head of diagnoses: its labels, its loss, and that it learns from the images that have one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from federations import new_run, raw_config, run_in_memory

from fedderm import config
from fedderm.combinations import check_choices
from fedderm.inference import score_images
from fedderm.label_skew import diagnosis_shifts
from fedderm.losses import FurtherLabels, image_losses
from fedderm.model.cascade import Cascade
from fedderm.model.heads import Logits
from fedderm.predictor import Predictor
from fedderm.settings import ModelSettings
from fedderm.training import Stretch, train_locally
from fedderm.training_settings import AugmentationSettings, TrainingSettings
from fedderm.trainset import TrainSet, pool, site_train_set
from sites.diagnosis_schemes import NAMES, NO_LABEL, diagnosis_labels


def settings(**given: object) -> ModelSettings:
    return ModelSettings.model_validate(
        {"backbone": "test_resnet", "pretrained": "none", "image_size": 32, "diagnoses": "seven", **given}
    )


def training(**given: object) -> TrainingSettings:
    return TrainingSettings.model_validate(
        {"batch_size": 16, "augmentation": AugmentationSettings(geometry=0, colour=0), **given}
    )


def data(labels: np.ndarray | None = None) -> TrainSet:
    """96 images, bright in one of four corners: MEL, NV, BCC, BKL. Every third has no label."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 60, (96, 32, 32, 3)).astype(np.uint8)
    corner = np.arange(96) % 4
    for place, (y, x) in enumerate(((0, 0), (0, 16), (16, 0), (16, 16))):
        pixels[corner == place, y : y + 16, x : x + 16] = 255
    if labels is None:
        labels = np.where(np.arange(96) % 3, np.array([0, 1, 2, 4])[corner], NO_LABEL)
    classes = np.array([1, 0, 3, 0])[corner]
    return site_train_set(pixels, np.arange(96), classes, training(), None, (labels, 7))


def test_labels_follow_the_diagnosis_and_the_sources_own_columns() -> None:
    table = pd.DataFrame(
        {
            "diagnosis": ["mel", "ak", "scc", "other_benign", "scc", "scc", "other_benign", "vasc"],
            "dx": [None, None, None, None, "akiec", None, None, None],
            "milk10k": [None, None, None, None, None, "SCCKA", "INF", "VASC"],
        }
    )
    seven = [NAMES["seven"][one] if one >= 0 else "" for one in diagnosis_labels(table, "seven")]
    assert seven == ["MEL", "AKIEC", "AKIEC", "", "AKIEC", "AKIEC", "", "VASC"]
    eleven = [NAMES["eleven"][one] if one >= 0 else "" for one in diagnosis_labels(table, "eleven")]
    assert eleven == ["MEL", "AKIEC", "", "", "AKIEC", "SCCKA", "INF", "VASC"]
    assert (diagnosis_labels(table, "none") == NO_LABEL).all()
    plain = diagnosis_labels(table[["diagnosis"]], "eleven")
    assert plain[-1] == NAMES["eleven"].index("VASC")


def test_an_image_without_a_label_has_no_loss_and_a_lacking_diagnosis_no_gradient() -> None:
    logits = torch.randn(3, 7, requires_grad=True)
    drawn = np.tile([4.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0], (3, 1))
    shifts = torch.from_numpy(diagnosis_shifts(drawn, training())).float()
    further = FurtherLabels(diagnoses=torch.tensor([0, NO_LABEL, 3]), diagnosis_shifts=shifts)
    both = Logits(torch.zeros(3), None, None, logits)
    args = (
        "binary",
        both,
        torch.tensor([1, 0, 2]),
        torch.tensor([[0.0, 0, 0, 0, 1, 1]] * 3),
        training(diagnosis_weight=2.0),
    )
    triage, loss = image_losses(*args, further)
    # By hand: Balanced Softmax over the four diagnoses that the site draws.
    wanted = -F.log_softmax(logits[:, :4] + torch.tensor([4.0, 2.0, 1.0, 1.0]).log(), dim=1)
    torch.testing.assert_close(
        loss - triage, 2 * torch.stack([wanted[0, 0], torch.tensor(0.0), wanted[2, 3]])
    )
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[1] == 0).all()
    assert (logits.grad[:, 4:] == 0).all()
    torch.testing.assert_close(image_losses(*args)[1], triage)


def test_a_site_without_labels_has_shifts_of_zero() -> None:
    drawn = np.array([[0.0, 0.0], [3.0, 1.0]])
    np.testing.assert_allclose(diagnosis_shifts(drawn, training()), [[0, 0], [np.log(0.75), np.log(0.25)]])


@pytest.mark.parametrize("scheme", ["binary", "four_class", "cascade"])
def test_untrained_all_diagnoses_are_as_likely(scheme: str) -> None:
    found = score_images(Cascade(settings(scheme=scheme)), data().images[0], np.arange(5), 4)
    np.testing.assert_array_equal(found.diagnoses, np.zeros((5, 7)))
    other = Cascade(settings(diagnoses="none"))
    assert score_images(other, data().images[0], np.arange(5)).diagnoses is None


def test_the_head_learns_from_labelled_images_and_tells_the_others() -> None:
    torch.manual_seed(1)
    model, images = Cascade(settings()), data()
    train_locally(model, images, training(local_epochs=12.0, learning_rate=0.002), Stretch(1, 1), [1])
    logits = score_images(model, images.images[0], np.arange(96)).diagnoses
    assert logits is not None
    assert (logits.argmax(axis=1) == np.array([0, 1, 2, 4])[np.arange(96) % 4]).mean() > 0.95
    np.testing.assert_array_equal(model.diagnoses.weight[[3, 5, 6]].detach(), 0)  # nobody has these


def test_without_any_label_the_head_stays_and_nothing_breaks() -> None:
    model = Cascade(settings())
    result = train_locally(model, data(np.full(96, NO_LABEL)), training(), Stretch(1, 1), [1])
    assert np.isfinite(result.loss)
    assert (model.diagnoses.weight == 0).all()


def test_pooled_sites_keep_each_images_label_and_its_sites_numbers() -> None:
    first, second = data(), data(np.full(96, NO_LABEL))
    pooled = pool([second, first])
    assert pooled.diagnoses is not None
    assert first.diagnoses is not None
    assert (pooled.diagnoses.labels[:96] == NO_LABEL).all()
    np.testing.assert_array_equal(pooled.diagnoses.drawn[96:], first.diagnoses.drawn)
    assert (pooled.diagnoses.drawn[:96] == 0).all()
    assert pool([replace(first, diagnoses=None)]).diagnoses is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": {"name": "fed3r"}, "rounds": 1, "training": {"trunk": "frozen"}}, "model.diagnoses"),
        ({"training": {"head_start": "ridge"}}, "head_start .* model.diagnoses"),
        ({"training": {"privacy": {"noise_multiplier": 1.0}}}, "privacy .* diagnoses"),
    ],
)
def test_what_the_head_cannot_do_is_refused(tmp_path: Path, changes: dict, words: str) -> None:
    raw = raw_config(tmp_path, model={"diagnoses": "seven"}, **changes)
    with pytest.raises(ValueError, match=words):
        check_choices(config.parse(raw))


@pytest.mark.parametrize("trunk", ["trained", "frozen", "lora"])
def test_a_run_judges_its_diagnoses_and_its_model_tells_them(root: Path, trunk: str) -> None:
    backbone = {"trained": "test_resnet", "frozen": "test_resnet", "lora": "test_vit"}[trunk]
    size = {"image_size": 160} if trunk == "lora" else {}
    folder = new_run(
        root, model={"diagnoses": "seven", "backbone": backbone, **size}, training={"trunk": trunk}, rounds=1
    )
    run_in_memory(folder)
    documents = json.loads((folder.path / "evaluation" / "sites.json").read_text())
    summed = np.zeros((7, 7), int)
    for document in documents.values():
        head = document["diagnosis_head"]
        assert head["names"] == list(NAMES["seven"])
        test = head["splits"]["test"]["lesion"]
        assert test["n"] == np.sum(test["confusion"])
        assert head["splits"]["test"]["image"]["n"] >= test["n"] > 0
        assert 0 <= test["macro_f1"]["value"] <= 1
        summed += np.array(test["confusion"]) * (document["role"] == "train")
    federation = json.loads((folder.path / "evaluation" / "federation.json").read_text())
    pooled = federation["diagnosis_head"]["splits"]["train"]["lesion"]
    np.testing.assert_array_equal(pooled["confusion"], summed)
    assert '<section id="diagnoses">' in (folder.path / "report.html").read_text()
    image = next(folder.experiment.work_dir.rglob("*.jpg"))
    told = Predictor.open(folder.path).predict(image).as_dict()["diagnoses"]
    untaught = json.loads((folder.path / "model" / "model.json").read_text())["untaught"]["diagnoses"]
    assert set(told) == set(NAMES["seven"]) - set(untaught)
    assert sum(told.values()) == pytest.approx(1, abs=1e-5)
    assert list(told.values()) == sorted(told.values(), reverse=True)
