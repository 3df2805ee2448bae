"""Metadata in the heads: what they add to the image, what is hidden in training, and that none is fine."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import clinic, fedderm
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from test_predict import INTERCEPT, SLOPE, trained
from torch import Tensor

from fedderm import config
from fedderm.batches import Batch
from fedderm.combinations import check_choices
from fedderm.evaluation.documents import OperatingPoint
from fedderm.exported import export_model
from fedderm.inference import score_images
from fedderm.losses import image_losses
from fedderm.metadata import HIDDEN, Metadata, Patient
from fedderm.model.cascade import Cascade
from fedderm.model.ensemble import Ensemble, Member
from fedderm.model.heads import BESIDE, Heads
from fedderm.model.lora import Adapted
from fedderm.model.state import own_names
from fedderm.predictor import Predictor
from fedderm.private_gradient import PrivateGradient
from fedderm.settings import ModelSettings
from fedderm.training import Stretch, initial_loss, train_locally
from fedderm.training_settings import AugmentationSettings, TrainingSettings
from fedderm.trainset import TrainSet, pool, site_train_set
from sites.metadata import FIELDS, encoded, missing

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = AugmentationSettings(geometry=0, colour=0)


def settings(**given: Any) -> ModelSettings:
    return ModelSettings.model_validate(
        {"backbone": "test_resnet", "pretrained": "none", "image_size": 32, "metadata": FIELDS, **given}
    )


def training(**given: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({"batch_size": 16, "augmentation": PLAIN, **given})


def people(ages: np.ndarray) -> Metadata:
    table = pd.DataFrame({"age": ages, "sex": None, "anatom_site": "back"})
    return Metadata(encoded(table, FIELDS), FIELDS)


def data(count: int = 96, images: np.ndarray | None = None) -> TrainSet:
    """Images of noise: the malignant ones are of patients of 80, the benign ones of patients of 30."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    classes = np.arange(count) % 4
    known = people(np.where(classes > 0, 80.0, 30.0))
    shown = pixels if images is None else images
    return site_train_set(shown, np.arange(count), classes, training(), metadata=known)


def drawn_at_random(model: Heads, seed: int = 3) -> Heads:
    """Return the model with heads that say something of everything."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for _, head in model.heads():
            for parameter in head.parameters():
                parameter.copy_(torch.from_numpy(rng.normal(size=tuple(parameter.shape))))
    return model.eval()


@pytest.mark.parametrize("scheme", ["binary", "four_class", "cascade"])
def test_a_head_beside_is_one_head_that_sees_both(scheme: str) -> None:
    """W f + V m + b of two layers equals one layer of [W V] on f and m side by side."""
    model = drawn_at_random(Heads(settings(scheme=scheme, diagnoses="seven"), 5))
    features, known = torch.randn(4, 1, 5), torch.from_numpy(people(np.array([20, 50, 80, np.nan])).numbers)

    def joined(name: str) -> Tensor:
        head, beside = getattr(model, name), getattr(model, name + BESIDE)
        weight = torch.cat([head.weight, beside.weight], dim=1)
        return torch.cat([features[:, 0], known], dim=1) @ weight.T + head.bias

    found = model(features, known)
    triage = joined("triage")[:, 0]
    if scheme == "four_class":
        triage = triage + joined("differentiation").logsumexp(dim=1)
    torch.testing.assert_close(found.triage, triage)
    if scheme != "binary":
        torch.testing.assert_close(found.differential, joined("differentiation"))
    torch.testing.assert_close(found.diagnoses, joined("diagnoses"))


def test_nothing_known_is_all_missing_and_patterns_see_the_image_alone() -> None:
    model = drawn_at_random(Heads(settings(patterns=True), 5))
    features, known = torch.randn(3, 1, 5), torch.from_numpy(people(np.array([20.0, 50.0, 80.0])).numbers)
    nothing = torch.from_numpy(missing(FIELDS)).expand(3, -1)
    torch.testing.assert_close(model(features).triage, model(features, nothing).triage)
    assert not torch.allclose(model(features).triage, model(features, known).triage)
    torch.testing.assert_close(model(features).patterns, model(features, known).patterns)


def test_the_heads_of_metadata_start_at_zero_and_are_heads() -> None:
    """The first model says the same with and without; what keeps or sends heads has them, too."""
    model = Cascade(settings())
    images = torch.rand(2, 3, 32, 32)
    known = torch.from_numpy(people(np.array([20.0, 80.0])).numbers)
    torch.testing.assert_close(model.eval()(images, known), model(images))
    assert {"triage_of_metadata.weight", "differentiation_of_metadata.weight"} < set(
        own_names(model, "heads")
    )
    assert "nothing_known" not in model.state_dict()
    without = Cascade(settings(metadata=()))
    assert set(model.state_dict()) - set(without.state_dict()) == {
        "triage_of_metadata.weight",
        "differentiation_of_metadata.weight",
    }


def test_fields_are_hidden_at_the_documented_rate_and_together() -> None:
    """All with 0.2, else each with 0.2: a field from 0.2 + 0.8 * 0.2, all three from 0.2 + 0.8 * 0.2^3."""
    known = people(np.full(40_000, 80.0))
    known = replace(known, numbers=known.numbers.copy())
    known.numbers[:, 3:5] = [1, 0]  # men
    seen = known.drawn(np.arange(40_000), torch.Generator().manual_seed(1)).numpy()
    hidden = seen[:, [1, 4, 11]] == 1
    np.testing.assert_allclose(hidden.mean(axis=0), HIDDEN + (1 - HIDDEN) * HIDDEN, atol=0.01)
    np.testing.assert_allclose(hidden.all(axis=1).mean(), HIDDEN + (1 - HIDDEN) * HIDDEN**3, atol=0.01)
    np.testing.assert_array_equal(seen[hidden.all(axis=1)][0], missing(FIELDS))
    np.testing.assert_array_equal(seen[~hidden.any(axis=1)][0], known.numbers[0])
    assert (seen[:, 0] == np.where(hidden[:, 0], 0, 1.5)).all()


def auc(model: Heads, images: TrainSet, known: np.ndarray | None) -> float:
    found = score_images(model, images.images[0], np.arange(len(images)), metadata=known)
    return float(roc_auc_score(images.classes > 0, found.triage))


@pytest.mark.parametrize("trunk", ["trained", "frozen", "lora"])
def test_what_only_metadata_tell_is_learned_and_missed_when_absent(trunk: str) -> None:
    """Pixels, or features, are noise that does not repeat between training and the images judged."""
    torch.manual_seed(0)
    given = training(trunk=trunk, learning_rate=0.01, local_epochs=6)
    fresh = np.random.default_rng(9).integers(0, 256, (96, 32, 32, 3)).astype(np.uint8)
    learned, judged = data(), data(images=fresh)
    model: Heads
    if trunk == "frozen":
        rng = np.random.default_rng(4)
        learned, judged = (data(images=rng.normal(size=(96, 4, 1, 8)).astype(np.float32)) for _ in range(2))
        model = Heads(settings(dropout=0.0), 8)
    elif trunk == "lora":
        model = Adapted(Cascade(settings()), settings(), given)
    else:
        model = Cascade(settings())
    train_locally(model, learned, given, Stretch(1, 1), [1])
    assert judged.metadata is not None
    assert auc(model, judged, judged.metadata.numbers) > 0.9
    assert 0.3 < auc(model, judged, None) < 0.7


def test_training_and_judging_go_on_where_all_are_missing() -> None:
    """A site that records nothing learns from its images: what hides everything changes no gradient."""
    nothing = Metadata(np.tile(missing(FIELDS), (96, 1)), FIELDS)
    results = []
    for images in (replace(data(), metadata=nothing), replace(data(), metadata=None)):
        torch.manual_seed(0)
        model = Cascade(settings(dropout=0.0))
        train_locally(model, images, training(), Stretch(1, 1), [1])
        results.append({name: one.clone() for name, one in model.state_dict().items()})
    for name, one in results[0].items():
        torch.testing.assert_close(one, results[1][name], rtol=1e-4, atol=1e-5)


def test_the_gradient_is_the_same_whether_features_are_computed_or_cached() -> None:
    """Heads on features, and the whole network on the pixels that they are of."""
    whole = drawn_at_random(Cascade(settings(dropout=0.0)))
    heads = Heads(settings(dropout=0.0), whole.triage.in_features).eval()
    heads.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("trunks")})
    images = torch.rand(6, 3, 32, 32)
    known = torch.from_numpy(people(np.array([20, 40, 60, 80, np.nan, 90])).numbers)
    classes, terms = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([[0.0, 0, 0, 0, 1, 1]] * 6)
    with torch.no_grad():
        features = whole.features(images)[0][:, None]
    for model, inputs in ((whole, images), (heads, features)):
        image_losses(model.scheme, model(inputs, known), classes, terms, training())[1].mean().backward()
    for name, head in heads.heads():
        other = getattr(whole, name)
        for one, two in zip(head.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad)


def test_private_gradients_clip_what_metadata_add() -> None:
    """The sum over images is that of a loop, metadata's layers included."""
    pytest.importorskip("opacus")
    model = drawn_at_random(Heads(settings(dropout=0.0), 8))
    given = training(privacy={"noise_multiplier": 1.0, "max_grad_norm": 0.5})
    assert given.privacy is not None
    known = torch.from_numpy(people(np.array([20.0, 40, 60, 80])).numbers)
    features = torch.randn(4, 1, 8)
    batch = Batch(features, torch.empty(4, 0), PLAIN, known)
    classes, terms = torch.arange(4), torch.tensor([[0.0, 0, 0, 0, 1, 1]] * 4)
    found = PrivateGradient(model, given, given.privacy, 1, 4).clipped_sum(batch, slice(0, 4), classes, terms)
    expected = {name: torch.zeros_like(one) for name, one in model.named_parameters()}
    for row in range(4):
        model.zero_grad()
        part = slice(row, row + 1)
        logits = model(features[part], known[part])
        image_losses(model.scheme, logits, classes[part], terms[part], given)[1].sum().backward()
        own = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        norm = torch.sqrt(sum((one.square().sum() for one in own.values()), torch.zeros(())))
        for name, one in own.items():
            expected[name] += one * min(1.0, 0.5 / float(norm + 1e-6))
    assert found["triage_of_metadata.weight"].abs().sum() > 0
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-6)


def test_a_pool_keeps_each_images_own_and_mixup_mixes_them() -> None:
    joined = pool([data(8), data(16)])
    assert joined.metadata is not None
    np.testing.assert_array_equal(joined.metadata.numbers[8:], data(16).metadata.numbers)  # type: ignore[union-attr]
    mixing = AugmentationSettings(geometry=0, mixing="mixup")
    known = torch.tensor([[0.0], [10.0]])
    drawn = torch.tensor([[1.0, 0.75, 0, 0, 0, 0], [0.0, 1.0, 0, 0, 0, 0]])
    batch = Batch(torch.zeros(2, 1, 4), drawn, mixing, known)
    assert batch.metadata(slice(0, 2), torch.device("cpu")).flatten().tolist() == [2.5, 10.0]  # type: ignore[union-attr]


def test_the_initial_loss_hides_nothing() -> None:
    model = drawn_at_random(Cascade(settings(dropout=0.0)))
    shown, hidden = data(), replace(data(), metadata=None)
    assert initial_loss(model, shown, training()) != initial_loss(model, hidden, training())
    assert initial_loss(model, shown, training()) == initial_loss(model, shown, training())


def test_an_ensemble_hands_them_on() -> None:
    members = [drawn_at_random(Cascade(settings()), seed) for seed in (1, 2)]
    half = OperatingPoint(
        calibration="identity", slope=1, intercept=0, threshold=0, threshold_probability=0.5, origin="half"
    )
    whole = Ensemble([Member(one, half) for one in members], settings(), "average").eval()
    images, known = torch.rand(3, 3, 32, 32), torch.from_numpy(people(np.array([20.0, 50, 80])).numbers)
    expected = torch.stack([torch.sigmoid(one(images, known).triage) for one in members]).mean(dim=0)
    torch.testing.assert_close(torch.sigmoid(whole(images, known).triage), expected)


def test_predict_tells_what_it_was_told(tmp_path: Path) -> None:
    """The logit moves by the heads' weights times the numbers, in the table, in JSON and in Python."""
    image = clinic(tmp_path) / "i3.png"
    folder = trained(tmp_path, metadata=["sex", "age"])
    assert folder.experiment.model.metadata == ("age", "sex"), "in the order of the numbers"
    predictor = Predictor.open(folder.path)
    weights = predictor.model.triage_of_metadata.weight[0].detach().numpy()
    told = fedderm("predict", folder.path, image, "--age", "70", "--sex", "female", "--json")
    bare = fedderm("predict", folder.path, image, "--json")
    found, nothing = json.loads(told.out), json.loads(bare.out)
    assert found["metadata"] == {"age": 70.0, "sex": "female"}
    assert nothing["metadata"] == {"age": None, "sex": None}
    logit = predictor.logits(image)[0][0]  # of nobody known
    moved = logit + weights @ (np.array([1, 0, 1, 0, 0]) - np.array([0, 1, 0, 0, 1]))
    assert found["probability"] == pytest.approx(expit(SLOPE * moved + INTERCEPT), abs=1e-5)
    assert nothing["probability"] == pytest.approx(expit(SLOPE * logit + INTERCEPT), abs=1e-5)
    table = fedderm("predict", folder.path, image, "--age", "70")
    assert "Of the patient: age 70.0. Not told, and counted as missing: sex." in " ".join(table.out.split())


def test_what_a_model_cannot_be_told_is_one_sentence(tmp_path: Path) -> None:
    image = clinic(tmp_path) / "i3.png"
    folder = trained(tmp_path, metadata=["age"])
    said = fedderm("predict", folder.path, image, "--sex", "male").sentence()
    assert said == ("--sex male: this model takes age; leave it out, or train with model.metadata")
    assert "expected years from 0 to 120" in fedderm("predict", folder.path, image, "--age", "130").sentence()
    with pytest.raises(ValueError, match="expected female or male"):
        Patient(sex="m")
    with pytest.raises(
        ValueError, match=r"--anatom-site leftside: expected head/neck, torso, .*leave it out"
    ):
        Patient(anatom_site="leftside")
    with pytest.raises(ValueError, match="takes no metadata"):
        Patient(age=3).told(())


def test_the_exported_file_has_a_second_input(tmp_path: Path) -> None:
    """onnxruntime says what PyTorch says of other patients than the export looked at, in any number."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = trained(tmp_path, views=2, metadata=list(FIELDS))
    assert export_model(folder.path, "bus", tmp_path / "m.onnx")["largest_difference"] <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    told = json.loads(session.get_modelmeta().custom_metadata_map["fedderm"])["metadata"]
    assert len(told["columns"]) == 12
    pixels = np.random.default_rng(5).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    known = people(np.array([25.0, 66.0, np.nan])).numbers
    known[2] = told["missing"]
    found = session.run(["logit"], {"pixels": pixels, "metadata": known})[0]
    model = Predictor.open(folder.path).model
    expected = score_images(model, pixels, np.arange(3), 2, "float32", known).triage
    np.testing.assert_allclose(found, expected, atol=1e-4)
    bare = score_images(model, pixels, np.arange(3), 2, "float32").triage
    np.testing.assert_allclose(found[2], bare[2], atol=1e-4)
    assert abs(found[0] - bare[0]) > 1e-3


def experiment(**changes: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "sites": [{"name": "a", "source": "simulated", "lesions": 20}],
        "model": {"metadata": ["age"]},
        **changes,
    }


def test_what_does_not_go_together_is_refused_with_the_reason() -> None:
    closed = {"strategy": {"name": "fed3r"}, "rounds": 1, "training": {"trunk": "frozen"}}
    with pytest.raises(ValueError, match=r"features alone, so leave model\.metadata out"):
        check_choices(config.parse(experiment(**closed)))
    check_choices(config.parse(experiment(training={"head_start": "ridge"})))
    with pytest.raises(config.ConfigError, match="a field stands twice"):
        config.parse(experiment(model={"metadata": ["age", "age"]}))
    with pytest.raises(config.ConfigError, match=r"model\.metadata\.0: expected"):
        config.parse(experiment(model={"metadata": ["weight"]}))


def test_a_folder_of_an_earlier_version_opens(tmp_path: Path) -> None:
    """Its settings know neither metadata nor hair: none of both."""
    image = clinic(tmp_path) / "i3.png"
    folder = trained(tmp_path)
    expected = Predictor.open(folder.path).predict(image)
    path = folder.path / "model" / "model.json"
    told = json.loads(path.read_text())
    for key in ("metadata", "hair"):
        told["model"].pop(key)
    path.write_text(json.dumps(told))
    before = config.load(folder.path / "config.yaml").model_dump(mode="json")
    for key in ("metadata", "hair"):
        before["model"].pop(key)
    assert config.parse(before) == folder.experiment
    assert Predictor.open(folder.path).predict(image) == expected
