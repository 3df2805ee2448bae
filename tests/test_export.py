"""``fedderm export``: the same probabilities from one file, and a program that needs nothing of fedderm's."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import clinic, fedderm
from test_predict import trained

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.exported import Deployable, export_model, outputs_of
from fedderm.model.calibration_layer import CalibrationLayer
from fedderm.predictor import Predictor

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "export.md"

MAPS = {
    "identity": CalibrationMap(),
    "platt": CalibrationMap("platt", 1.7, -0.4, prior_shift=0.3),
    "beta": CalibrationMap("beta", beta=(0.8, 1.3, -0.2)),
    "isotonic": CalibrationMap("isotonic", knots=((-2.0, 0.05), (0.0, 0.3), (1.5, 0.3), (3.0, 0.9))),
}


@pytest.mark.parametrize("name", sorted(MAPS))
def test_every_calibration_map_is_the_one_that_was_fitted(name: str) -> None:
    logits = np.linspace(-8, 8, 401)
    found = torch.sigmoid(CalibrationLayer(MAPS[name])(torch.tensor(logits, dtype=torch.float32)))
    np.testing.assert_allclose(found.numpy(), MAPS[name].probabilities(logits), atol=2e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scheme": "binary"},
        {"scheme": "four_class"},
        {"trunk": "separate"},
        {"backbone": "test_vit", "image_size": 160},
        {"backbone": "test_resnet+test_efficientnet", "pretrained": "none"},
        {"diagnoses": "seven", "patterns": True},
        {"diagnoses": "eleven", "scheme": "binary"},
    ],
    ids=str,
)
def test_onnxruntime_says_what_predict_says(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Any batch, and images that the export did not look at."""
    folder = trained(tmp_path, views=4, **changes)
    told = export_model(folder.path, "bus", tmp_path / "m.onnx")
    assert told["largest_difference"] <= 1e-4
    predictor = Predictor.open(folder.path, "bus")
    side = predictor.settings.image_size
    pixels = np.random.default_rng(5).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {"pixels": pixels})
    network = Deployable(predictor.model, CalibrationMap.of(predictor.point), predictor.views)
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels))
    assert len(found) == len(outputs_of(predictor.settings))
    assert list(told["outputs"]) == [one.name for one in session.get_outputs()]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["fedderm"])["site"] == "bus"


def test_the_program_of_the_page_agrees_with_predict(tmp_path: Path) -> None:
    photos = clinic(tmp_path, size=150)
    folder = trained(tmp_path, views=1)
    told = fedderm("export", folder.path, "--to", tmp_path / "m.onnx", "--site", "bus")
    assert told.code == 0, told
    assert "onnxruntime gives PyTorch's probabilities to" in told.out
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    program = tmp_path / "use.py"
    program.write_text(code)
    images = sorted(str(path) for path in photos.glob("*.png"))[:6]
    ran = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "m.onnx"), *images],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    listed = fedderm("predict", folder.path, *images, "--site", "bus", "--json")
    expected = [json.loads(line) for line in listed.out.splitlines()]
    lines = [line.rsplit(" ", 2) for line in ran.stdout.splitlines()]
    assert [(path, decision) for path, _, decision in lines] == [
        (one["image"], one["decision"]) for one in expected
    ]
    for (_, probability, _), one in zip(lines, expected, strict=True):
        assert float(probability) == pytest.approx(one["probability"], abs=1.1e-4)


def test_a_file_that_differs_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when an operation is translated wrongly: here the calibration is another in the graph."""
    folder = trained(tmp_path)
    wrong = CalibrationMap("platt", -2.0, 0.0)
    monkeypatch.setattr(
        "fedderm.exported.Deployable", lambda model, _, views: Deployable(model, wrong, views)
    )
    with pytest.raises(ValueError, match=r"differ from PyTorch's by up to .* nothing was written"):
        export_model(folder.path, "bus", tmp_path / "m.onnx")
    assert not list(tmp_path.glob("*m.onnx*"))
    assert not (tmp_path / "m.json").exists()


def test_what_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    assert "expected a file that ends in .onnx" in fedderm("export", folder.path, "--to", "x.pt").sentence()
    told = fedderm("export", folder.path, "--to", tmp_path / "m.onnx", "--site", "west").sentence()
    assert "this model knows the sites" in told
    absent = tmp_path / "absent"
    told = fedderm("export", folder.path, "--to", absent / "m.onnx").sentence()
    assert told == f"--to {absent}/m.onnx: there is no folder {absent}; make it, or choose another place"
    (tmp_path / "dir.onnx").mkdir()
    assert (
        "is a folder; name a file" in fedderm("export", folder.path, "--to", tmp_path / "dir.onnx").sentence()
    )
