"""A model as one ONNX file: pixels, and metadata where it is told any, in; calibrated probabilities out.

Views, normalisation, both heads, calibration map and softmax are in the graph; the rest of the preparation
(which square of the photograph, hair, colour constancy) and the threshold are in the file's metadata and, for
people, in a JSON file beside it. Needs the extra ``export`` (onnx, onnxscript, onnxruntime).
"""

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, softmax
from torch import Tensor, nn

from fedderm import __version__
from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.inference import mirror_images, score_images
from fedderm.metadata import Patient
from fedderm.model.calibration_layer import CalibrationLayer
from fedderm.model.heads import Heads
from fedderm.predictor import Predictor
from fedderm.settings import ModelSettings
from fedderm.whole_file import whole, write_whole
from sites.diagnoses import BCC_PATTERNS, CLASSES
from sites.diagnosis_schemes import NAMES
from sites.metadata import REGIONS, SEXES, Field
from sites.metadata import description as told_how

TOLERANCE: Final = 1e-4
"""The largest difference of a probability between onnxruntime and PyTorch."""
_CHECKED: Final = 8
_Shown = Mapping[str, npt.NDArray[Any]]
"""The graph's inputs by name, ``_CHECKED`` images each."""
_OPSET: Final = 18
_NEEDED: Final = ("onnx", "onnxscript", "onnxruntime")


class Deployable(nn.Module):
    """A network with what surrounds it: uint8 pixels (B, S, S, 3), RGB, to probabilities."""

    def __init__(self, model: Heads, calibration: CalibrationMap, views: int) -> None:
        """Take a network and the map of its operating point; ``views`` mirror images are averaged."""
        super().__init__()
        self.model = model.eval()
        self.views = views
        self.calibration = CalibrationLayer(calibration)

    def forward(self, pixels: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return what ``outputs_of`` names: the calibrated probability (B,), the raw triage logit (B,), and
        of heads that there are P(class | malignant) (B, 3), P(pattern) (B, 8), P(diagnosis) (B, K).

        ``metadata`` (B, M) of a model that is told any.
        """
        inputs = pixels.permute(0, 3, 1, 2).float() / 255
        seen = [self.model(view, metadata) for view in mirror_images(inputs, self.views)]
        triage = torch.stack([one.triage for one in seen]).mean(dim=0)
        found: tuple[Tensor, ...] = (torch.sigmoid(self.calibration(triage)), triage)
        for name, share in (("differential", _softmax), ("patterns", torch.sigmoid), ("diagnoses", _softmax)):
            views = [getattr(one, name) for one in seen]
            if views[0] is not None:
                found = (*found, share(torch.stack(views).mean(dim=0)))
        return found


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=1)


def outputs_of(settings: ModelSettings) -> dict[str, str]:
    """Return the outputs of a model's file in their order, and what each is."""
    found = {"probability": "calibrated P(malignant)", "logit": "raw triage logit"}
    if settings.scheme != "binary":
        found["differential"] = f"P(class | malignant) of {', '.join(CLASSES[1:])}"
    if settings.patterns:
        found["patterns"] = f"P(there) of BCC, {', '.join(BCC_PATTERNS)}; not calibrated"
    if settings.diagnoses != "none":
        found["diagnoses"] = f"P(diagnosis) of {', '.join(NAMES[settings.diagnoses])}; not calibrated"
    return found


def export_model(model: Path, site: str | None, to: Path) -> dict[str, Any]:
    """Write the ONNX file and its description beside it; return the description.

    Raises ValueError where the model cannot be used, the extra is missing, or onnxruntime's probabilities
    differ by more than TOLERANCE; then nothing is left behind.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise ValueError(f"the export needs {', '.join(missing)}: pip install 'fedderm[export]'")
    if to.suffix != ".onnx":
        raise ValueError(f"--to {to}: expected a file that ends in .onnx")
    if to.is_dir():
        raise ValueError(f"--to {to}: is a folder; name a file that ends in .onnx")
    if not to.parent.is_dir():
        raise ValueError(f"--to {to}: there is no folder {to.parent}; make it, or choose another place")
    predictor = Predictor.open(model, site)
    shown: dict[str, npt.NDArray[Any]] = {"pixels": _test_pixels(predictor.settings.image_size)}
    if fields := predictor.settings.metadata:
        shown["metadata"] = _test_metadata(fields)
    with whole(to) as temporary:
        _write(predictor, shown, temporary)
        description = describe(predictor, site)
        _add(temporary, description)
        description["largest_difference"] = _checked(predictor, shown, temporary)
    write_whole(to.with_suffix(".json"), json.dumps(description, indent=1) + "\n")
    return description


def describe(predictor: Predictor, site: str | None) -> dict[str, Any]:
    """Return what somebody has to know to use the file."""
    settings, point = predictor.settings, predictor.point
    metadata = {"metadata": told_how(settings.metadata)} if settings.metadata else {}
    return {
        "fedderm": __version__,
        "use": "research only; not a medical device",
        "input": f"pixels: uint8 (batch, {settings.image_size}, {settings.image_size}, 3), RGB, upright",
        "outputs": outputs_of(settings),
        **({"untaught": told} if (told := predictor.untaught.sentence()) else {}),
        **metadata,
        "image_size": settings.image_size,
        "crop": settings.crop,
        "hair": settings.hair,
        "colour": settings.colour,
        "classes": list(CLASSES[1:]) if settings.scheme != "binary" else [],
        "scheme": settings.scheme,
        "backbone": settings.backbone,
        "views": predictor.views,
        "site": site or "the federation's",
        "threshold_probability": point.threshold_probability,
        "threshold_logit": point.threshold,
        "threshold_origin": point.origin,
    }


def _test_pixels(side: int) -> npt.NDArray[np.uint8]:
    """Return images of noise, coarse and fine: a wrong order of axes or channels, or a lost flip, shows."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (_CHECKED, 8, 8, 3), dtype=np.uint8)
    tiles = -(-side // 8)
    smooth = coarse.repeat(tiles, axis=1).repeat(tiles, axis=2)[:, :side, :side]
    fine = rng.integers(0, 256, smooth.shape, dtype=np.uint8)
    return np.where(np.arange(_CHECKED)[:, None, None, None] % 2, smooth, fine)


def _test_metadata(fields: Sequence[Field]) -> npt.NDArray[np.float32]:
    """Return patients of different ages, sexes and places, the last of whom nothing is known."""
    ages, sexes, places = (85, 20, 47.5, None), (*SEXES, None), (*REGIONS, None)
    people = [
        Patient(ages[one % len(ages)], sexes[one % len(sexes)], places[one % len(places)])
        for one in range(_CHECKED - 1)
    ]
    return np.concatenate([one.encoded(fields) for one in (*people, Patient())])


def _write(predictor: Predictor, shown: _Shown, path: Path) -> None:
    network = Deployable(predictor.model, CalibrationMap.of(predictor.point), predictor.views).eval()
    batch = torch.export.Dim("batch")
    told = logging.getLogger("torch.onnx")
    before = told.level
    told.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter about itself
            torch.onnx.export(
                network,
                tuple(torch.from_numpy(one[:2]) for one in shown.values()),
                str(path),
                dynamo=True,
                external_data=False,
                opset_version=_OPSET,
                input_names=list(shown),
                output_names=list(outputs_of(predictor.settings)),
                dynamic_shapes={name: {0: batch} for name in shown},
                verbose=False,
            )
    finally:
        told.setLevel(before)


def _add(path: Path, description: dict[str, Any]) -> None:
    """Put the description into the file's own metadata."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"fedderm": json.dumps(description)})
    onnx.save(model, path)


def _checked(predictor: Predictor, shown: _Shown, path: Path) -> float:
    """Return the largest difference of a probability from PyTorch's; raises ValueError beyond TOLERANCE."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, dict(shown))
    pixels, metadata = shown["pixels"], shown.get("metadata")
    rows = np.arange(len(pixels))
    said = score_images(predictor.model, pixels, rows, predictor.views, "float32", metadata)
    expected = [CalibrationMap.of(predictor.point).probabilities(said.triage)]
    expected += [] if said.differential is None else [softmax(said.differential, axis=1)]
    expected += [] if said.patterns is None else [expit(said.patterns)]
    expected += [] if said.diagnoses is None else [softmax(said.diagnoses, axis=1)]
    probabilities = [one for place, one in enumerate(found) if place != 1]
    worst = max(float(np.abs(one - other).max()) for one, other in zip(probabilities, expected, strict=True))
    if not worst <= TOLERANCE:
        raise ValueError(
            f"onnxruntime's probabilities differ from PyTorch's by up to {worst:.2g} (allowed "
            f"{TOLERANCE:g}); nothing was written; use `fedderm predict` for this model, and report it"
        )
    return worst
