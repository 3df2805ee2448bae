"""``fedderm predict``: the pixels of the cache, the point of the site, and every file that is no image."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import clinic, fedderm, write_config
from dicom_files import new_dataset, save
from PIL import Image

from fedderm import config
from fedderm.devices import seeded
from fedderm.evaluation.documents import OperatingPoint
from fedderm.inference import predict_logits
from fedderm.model.cascade import Cascade
from fedderm.model.state import to_arrays
from fedderm.predictor import Predictor
from fedderm.runs import RunFolder
from sites.cache import open_cache
from sites.catalogue import load_site

SLOPE, INTERCEPT = 2.0, 0.25
pytestmark = pytest.mark.usefixtures("one_thread")


def point(threshold: float, origin: str) -> dict[str, Any]:
    probability = 1 / (1 + math.exp(-(SLOPE * threshold + INTERCEPT)))
    return OperatingPoint(
        calibration="platt",
        slope=SLOPE,
        intercept=INTERCEPT,
        threshold=threshold,
        threshold_probability=probability,
        origin=origin,
    ).model_dump()


def trained(root: Path, views: int = 2, **model: Any) -> RunFolder:
    """Return a run with a model of random weights, at which the federation calls everything malignant."""
    folder = RunFolder.create(config.load(write_config(root, model={**MODEL, **model})))
    seeded([1])
    network = Cascade(folder.experiment.model)
    arrays = to_arrays(network)
    rng = np.random.default_rng(3)
    for name, array in arrays.items():
        if not array.any() and array.dtype == np.float32:  # heads begin at zero and would say the same of all
            arrays[name] = rng.normal(size=array.shape).astype(np.float32)
    description = {
        "model": folder.experiment.model.model_dump(mode="json"),
        "views": views,
        "federation_point": point(-300.0, "The federation's."),
        "site_points": {"coast": point(300.0, "Coast's own [sic]."), "bus": point(0.0, "The bus's.")},
    }
    folder.write_model(arrays, description, {})
    return folder


MODEL: dict[str, Any] = {"backbone": "test_resnet", "pretrained": "none", "image_size": 48, "dropout": 0.0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop": "squash", "colour": "shades_of_grey"},
        {"hair": "removed"},
        {"scheme": "binary"},
        {"scheme": "four_class", "image_size": 32},
    ],
    ids=str,
)
def test_logits_are_those_of_the_pixel_cache(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The images are larger than the model's and of odd shapes, formats and orientations."""
    photos = clinic(tmp_path, size=150)
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(photos / "i0.png") as image:
        image.save(photos / "i0.jpg", exif=turned, quality=90)
    (photos / "i0.png").unlink()
    with Image.open(photos / "i1.png") as image:
        image.convert("L").save(photos / "i1.png")
    folder = trained(tmp_path, **changes)
    experiment = folder.experiment
    data = load_site(experiment.sites[0], experiment.data_root, experiment.work_dir, experiment.seed)
    cache = open_cache(data, experiment.model.pixels(), experiment.work_dir)
    predictor = Predictor.open(folder.path)
    rows = np.arange(len(cache.table))
    triage, differential = predict_logits(predictor.model, cache.pixels, rows, predictor.views)
    assert triage.std() > 1e-3, "a net that says the same of all would prove nothing"
    for row, path in enumerate(cache.table["path"]):
        alone, kinds = predictor.logits(Path(path))
        np.testing.assert_allclose(alone, triage[[row]], rtol=1e-4, atol=1e-5)
        assert (kinds is None) == (differential is None)
        if kinds is not None and differential is not None:
            np.testing.assert_allclose(kinds, differential[[row]], rtol=1e-4, atol=1e-5)


def test_probability_decision_and_differential_follow_from_the_logits(tmp_path: Path) -> None:
    image = clinic(tmp_path) / "i3.png"
    folder = trained(tmp_path)
    predictor = Predictor.open(folder.path)
    triage, kinds = predictor.logits(image)
    assert kinds is not None
    found = predictor.predict(image)
    assert found.probability == pytest.approx(1 / (1 + math.exp(-(SLOPE * triage[0] + INTERCEPT))), abs=1e-6)
    assert found.decision == "malignant"
    weights = np.exp(kinds[0])
    expected = dict(zip(("MEL", "SCC", "BCC"), weights / weights.sum(), strict=True))
    assert found.differential == pytest.approx(expected, abs=1e-5)
    assert list(found.differential.values()) == sorted(found.differential.values(), reverse=True)
    coast = Predictor.open(folder.path, "coast").predict(image)
    assert (coast.decision, coast.differential) == ("benign", {})
    assert coast.probability == found.probability, "the two points differ in the threshold only"


def test_the_threshold_itself_is_malignant(tmp_path: Path) -> None:
    image = clinic(tmp_path) / "i3.png"
    folder = trained(tmp_path)
    logit = float(Predictor.open(folder.path).logits(image)[0][0])
    description = json.loads((folder.path / "model" / "model.json").read_text())
    for threshold, decision in ((logit, "malignant"), (math.nextafter(logit, math.inf), "benign")):
        folder.write_json("model/model.json", {**description, "federation_point": point(threshold, "Here.")})
        assert Predictor.open(folder.path).predict(image).decision == decision


def test_table_and_json_say_the_same(tmp_path: Path) -> None:
    photos = clinic(tmp_path, rows=3, malignant=1)
    (photos / "i0.png").rename(photos / "[bold]odd name.png")
    (photos / ".hidden.png").write_bytes(b"")
    run = trained(tmp_path).path
    listed = fedderm("predict", run, photos, "--json")
    assert listed.code == 0, listed.err
    lines = [json.loads(line) for line in listed.out.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["[bold]odd name.png", "i1.png", "i2.png"]
    table = fedderm("predict", run / "model", photos)
    assert table.code == 0, table.err
    for line in lines:
        row = next(one for one in table.out.splitlines() if one.startswith(line["image"]))
        assert f"{line['probability']:.3f}" in row
        assert line["decision"] in row
        assert next(iter(line["differential"])) in row
    assert "The federation's." in table.out
    assert "Research use only" in table.out
    own = fedderm("predict", run, photos / "i1.png", "--site", "coast")
    assert "Coast's own [sic]." in own.out
    assert "benign" in own.out


def test_unreadable_images_are_named_and_do_not_stop_the_others(tmp_path: Path) -> None:
    photos = clinic(tmp_path, rows=2, malignant=1)
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("hello")
    found = fedderm("predict", trained(tmp_path).path, photos, tmp_path / "absent.jpg", "--json")
    assert found.code == 2
    assert [Path(json.loads(line)["image"]).name for line in found.out.splitlines()] == ["i0.png", "i1.png"]
    assert found.err.splitlines() == [
        f"fedderm: {photos / 'empty.jpg'}: the file is empty (0 bytes); copy it again",
        f"fedderm: {photos / 'text.png'}: not an image; convert it to JPEG, PNG, TIFF or BMP",
        f"fedderm: {tmp_path / 'absent.jpg'}: no such file",
        "fedderm: 3 of 5 images could not be read",
    ]


def test_without_a_single_prediction_no_guarantee_is_printed(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    found = fedderm("predict", trained(tmp_path).path, tmp_path / "text.png")
    assert (found.code, found.out) == (2, "")
    assert "text.png: not an image" in found.err


def test_a_model_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    image = clinic(tmp_path) / "i0.png"
    folder = trained(tmp_path)
    described = folder.path / "model" / "model.json"
    good = described.read_text()

    def told(*more: str) -> str:
        return fedderm("predict", folder.path, image, *more).sentence()

    assert "--site coats: this model knows the sites coast, bus" in told("--site", "coats")
    for content in (
        "",
        "[]",
        "{}",
        '"x"',
        good.replace('"views": 2', '"views": "x"'),
        good.replace("slope", "slop"),
    ):
        described.write_text(content)
        assert f"{described}: is damaged (" in told()
    described.write_bytes(b"\xff\xfe\x00")
    assert f"{described}: is damaged (" in told()
    described.write_text(good.replace("test_resnet", "test_vit"))
    assert "the weights do not fit the model" in told()
    described.write_text(good)
    (folder.path / "model" / "model.safetensors").write_bytes(b"")
    assert "model.safetensors: is not a readable safetensors file" in told()
    described.unlink()
    assert "holds no model (model/model.json is missing); give the folder of a finished run" in told()
    for path in (tmp_path / "absent", image):
        assert f"{path}: holds no model" in fedderm("predict", path, image).sentence()


def test_a_dicom_file_is_what_its_picture_is_also_without_a_suffix(tmp_path: Path) -> None:
    folder = clinic(tmp_path)
    pixels = np.asarray(Image.open(folder / "i1.png"))
    (tmp_path / "new").mkdir()
    save(new_dataset(pixels), tmp_path / "new" / "IM0001")
    save(new_dataset(pixels), tmp_path / "new" / "DICOMDIR")
    save(new_dataset(pixels), tmp_path / "burned.dcm", {"BurnedInAnnotation": "YES"})
    run = trained(tmp_path).path
    told = fedderm("predict", run, folder / "i1.png", tmp_path / "new", "--json")
    assert told.code == 0, told
    picture, dicom = (json.loads(line) for line in told.out.splitlines())
    assert dicom.pop("image").endswith("IM0001")
    assert picture.pop("image").endswith("i1.png")
    assert dicom == picture
    refused = fedderm("predict", run, tmp_path / "burned.dcm")
    assert "burned.dcm: has text burned into its pixels" in refused.sentence()


def test_a_folder_without_images_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    clinic(tmp_path)
    told = fedderm("predict", trained(tmp_path).path, tmp_path / "empty").sentence()
    assert f"{tmp_path / 'empty'}: holds no image (.bmp, .dcm, .dicom, .jpeg" in told
