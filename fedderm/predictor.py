"""A trained model put to use on single images: calibrated probability, decision, differential."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import ValidationError

from fedderm.evaluation.documents import OperatingPoint
from fedderm.inference import predict_logits
from fedderm.model.cascade import Cascade
from fedderm.model.state import load_arrays
from fedderm.settings import ModelSettings
from fedderm.weights import read_arrays
from sites.diagnoses import CLASSES
from sites.images import read_image, shades_of_grey, to_square


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    ``differential`` has P(class | malignant) of MEL, SCC and BCC, most likely first, and is empty for a benign decision
    and in the binary scheme.
    """

    image: str
    probability: float
    """Calibrated probability of malignancy, 0..1."""
    decision: str
    threshold: float
    """As a calibrated probability."""
    differential: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Predictor:
    """A model with its preprocessing and one operating point."""

    model: Cascade
    settings: ModelSettings
    point: OperatingPoint
    views: int

    @classmethod
    def open(cls, path: Path, site: str | None = None) -> Self:
        """Return the model of a run's folder or model folder, at ``site``'s operating point or the federation's.

        Raises ValueError where the folder holds no model, a file is damaged, or the site is unknown.
        """
        folder = path / "model" if (path / "model" / "model.json").is_file() else path
        try:
            description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            settings = ModelSettings.model_validate(description["model"])
            point = OperatingPoint.model_validate(_point(description, site))
            views = int(description["views"])
        except OSError as error:
            raise ValueError(
                f"{path}: holds no model (model/model.json is missing); give the folder of a finished run"
            ) from error
        except (KeyError, TypeError, json.JSONDecodeError, ValidationError) as error:
            raise ValueError(
                f"{folder / 'model.json'}: is damaged ({error}); copy it again from the run"
            ) from error
        model = Cascade(settings, pretrained=False)
        load_arrays(model, read_arrays(folder / "model.safetensors"))
        return cls(model, settings, point, views)

    def predict(self, image: Path) -> Prediction:
        """Return the prediction for one image file; raises ImageUnreadable where it is none."""
        pixels = read_image(image)
        if self.settings.colour == "shades_of_grey":
            pixels = shades_of_grey(pixels)
        square = to_square(pixels, self.settings.image_size, self.settings.crop)
        triage, differential = predict_logits(self.model, square[None], np.zeros(1, np.int64), self.views)
        logit = float(triage[0])
        probability = 1 / (1 + np.exp(-(self.point.slope * logit + self.point.intercept)))
        malignant = logit >= self.point.threshold
        shares: dict[str, float] = {}
        if malignant and differential is not None:
            exponents = np.exp(differential[0] - differential[0].max())
            named = zip(CLASSES[1:], exponents / exponents.sum(), strict=True)
            shares = {
                name: round(float(share), 6) for name, share in sorted(named, key=lambda item: -item[1])
            }
        decision = "malignant" if malignant else "benign"
        return Prediction(
            str(image), round(float(probability), 6), decision, self.point.threshold_probability, shares
        )


def _point(description: dict[str, Any], site: str | None) -> Any:
    if site is None:
        return description["federation_point"]
    points = description["site_points"]
    if site not in points:
        raise ValueError(f"--site {site}: this model knows the sites {', '.join(points)}")
    return points[site]
