"""A trained model put to use on single images: calibrated probability, decision, differential."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.special import expit, softmax

from fedderm.caution import caution
from fedderm.evaluation.bcc_rule import suggests_bcc
from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.distance import Familiar
from fedderm.evaluation.documents import OperatingPoint
from fedderm.inference import Floats, ImageScores, score_images
from fedderm.metadata import Patient
from fedderm.model.cascade import Cascade
from fedderm.model.ensemble import Ensemble
from fedderm.model_folder import (
    UnknownSite,
    damaged,
    model_folder,
    point_of,
    read_description,
    read_familiar,
)
from fedderm.networks import network_of
from fedderm.settings import ModelSettings
from fedderm.untaught import NOTHING, Untaught
from sites.cache import corrected
from sites.diagnoses import BCC_PATTERNS, CLASSES
from sites.diagnosis_schemes import NAMES
from sites.images import Pixels, read_image, to_square


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    ``differential`` has P(class | malignant) of MEL, SCC and BCC, most likely first; it is empty for a benign
    decision and in the binary scheme.
    """

    image: str
    probability: float
    """Calibrated probability of malignancy, 0..1."""
    decision: str
    threshold: float
    """As a calibrated probability."""
    differential: dict[str, float]
    bcc: float | None = None
    """P(BCC), not calibrated, of a model with pattern heads; None of another."""
    patterns: dict[str, float] | None = None
    """Of each dermoscopic pattern of BCC that some training site had annotations of, not calibrated."""
    rule_suggests_bcc: bool | None = None
    """What the clinical rule makes of the patterns: pigment network excludes, any other suggests; None where
    pigment network, or all others, were taught by no site."""
    diagnoses: dict[str, float] | None = None
    """Probability of each diagnosis that a training site had an image of, most likely first, not calibrated;
    None of a model without that head."""
    metadata: dict[str, Any] | None = None
    """What the model was told of the patient, None where a field is not known; None of a model told none."""
    spread: float | None = None
    """Standard deviation of the probability over mirrored views; None of a model with one view."""
    agreement: float | None = None
    """Share of the views whose own decision is this one; None of a model with one view."""
    distance: float | None = None
    """How far the image lies from those of training sites, over the distance that 1 % of theirs exceed."""
    out_of_distribution: bool | None = None
    """Whether that is above 1; None where the model's folder does not say what training images look like."""
    abstains: bool = False
    """Whether a person should decide; probability and decision are what they would be without."""
    abstains_because: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; nothing of patterns, diagnoses or metadata of a model without."""
        found = asdict(self)
        if self.patterns is None:
            for name in ("bcc", "patterns", "rule_suggests_bcc"):
                found.pop(name)
        for name in ("diagnoses", "metadata"):
            if found[name] is None:
                found.pop(name)
        return found


@dataclass(frozen=True)
class Predictor:
    """A model with its preprocessing and one operating point."""

    model: Cascade | Ensemble
    settings: ModelSettings
    point: OperatingPoint
    views: int
    familiar: Familiar | None = None
    """What training sites' images look like; None where the folder does not tell."""
    untaught: Untaught = NOTHING
    """What the model has heads for and cannot tell."""

    @classmethod
    def open(cls, path: Path, site: str | None = None) -> Self:
        """Return the model of a run's or model's folder, at ``site``'s operating point or the federation's.

        Raises ValueError where the folder holds no model, a file is damaged, or the site is unknown.
        """
        folder = model_folder(path)
        description = read_description(folder)
        try:
            settings = ModelSettings.model_validate(description["model"])
            point = OperatingPoint.model_validate(point_of(description, site))
            views = int(description["views"])
            untaught = Untaught.of(description)
        except UnknownSite:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(folder, error) from error
        model = network_of(folder, description)
        return cls(model, settings, point, views, read_familiar(folder), untaught)

    def single(self, what: str) -> Cascade:
        """Return the network of one model; raises ValueError where ``what`` is asked of an ensemble."""
        if isinstance(self.model, Ensemble):
            raise ValueError(
                f"{what} looks into one network, and this is an ensemble; give it a member's folder"
            )
        return self.model

    def pixels(self, image: Path) -> Pixels:
        """Return the whole image (H, W, 3), corrected as the model sees it; ImageUnreadable for none."""
        return corrected(read_image(image), self.settings.pixels())

    def square(self, pixels: Pixels, side: int | None = None) -> Pixels:
        """Return the part that the model sees, (side, side, 3); as large as it sees it without ``side``.

        That is what the pixel cache of a site without a simulated device holds.
        """
        return to_square(pixels, side or self.settings.image_size, self.settings.crop)

    def scores(self, square: Pixels) -> ImageScores:
        """Return the logits of one image's prepared pixels ``square``: the mean over its views."""
        return _mean(self.view_scores(square))

    def view_scores(self, square: Pixels, patient: Patient = Patient()) -> ImageScores:
        """Return the logits of each mirror image of ``square``, a row a view, in ``mirror_images``' order."""
        views = np.stack([square, square[:, ::-1], square[::-1], square[::-1, ::-1]][: self.views])
        known = np.repeat(patient.encoded(self.settings.metadata), len(views), axis=0)
        return score_images(self.model, views, np.arange(len(views)), 1, metadata=known)

    def logits(self, image: Path) -> tuple[Floats, Floats | None]:
        """Return the triage logit (1,) and the differential logits (1, 3), None in the binary scheme."""
        found = self.scores(self.square(self.pixels(image)))
        return found.triage, found.differential

    def predict(self, image: Path, agreement: float = 1.0, patient: Patient = Patient()) -> Prediction:
        """Return the prediction for one image file; raises ImageUnreadable where it is none.

        The model abstains where a share of fewer than ``agreement`` views decides as their mean. Raises
        ValueError where something is known of the ``patient`` that the model does not take.
        """
        return self.predict_square(image, self.square(self.pixels(image)), agreement, patient)

    def predict_square(
        self, image: Path, square: Pixels, agreement: float = 1.0, patient: Patient = Patient()
    ) -> Prediction:
        """Return the prediction for the prepared pixels ``square`` of the file ``image``."""
        told = patient.told(self.settings.metadata)
        seen = self.view_scores(square, patient)
        scores = _mean(seen)
        triage, differential = scores.triage, scores.differential
        logit = float(triage[0])
        probability = float(CalibrationMap.of(self.point).probabilities(triage)[0])
        malignant = logit >= self.point.threshold
        shares: dict[str, float] = {}
        if malignant and differential is not None:
            shares = _shares(CLASSES[1:], differential[0], self.untaught.classes)
        decision = "malignant" if malignant else "benign"
        return Prediction(
            str(image),
            round(probability, 6),
            decision,
            self.point.threshold_probability,
            shares,
            **_patterns(scores.patterns, self.untaught.patterns),
            diagnoses=self._diagnoses(scores.diagnoses),
            metadata=told or None,
            **self._caution(seen, scores, malignant, agreement),
        )

    def _diagnoses(self, logits: Floats | None) -> dict[str, float] | None:
        if logits is None:
            return None
        return _shares(NAMES[self.settings.diagnoses], logits[0], self.untaught.diagnoses)

    def _caution(self, seen: ImageScores, mean: ImageScores, malignant: bool, least: float) -> dict[str, Any]:
        """Return the fields of a prediction that say whether to rely on it."""
        distance = None if self.familiar is None else float(self.familiar.of(mean.features)[0])
        probabilities = CalibrationMap.of(self.point).probabilities(seen.triage)
        found = caution(probabilities, seen.triage >= self.point.threshold, malignant, distance, least)
        return {
            "spread": found.spread,
            "agreement": found.agreement,
            "distance": found.distance,
            "out_of_distribution": None if distance is None else distance > 1,
            "abstains": bool(found.reasons),
            "abstains_because": found.reasons,
        }


def _shares(names: Sequence[str], logits: Floats, without: Sequence[str]) -> dict[str, float]:
    """Return the softmax of ``logits`` (K,) by name, most likely first, ``without`` some."""
    left = {name: logit for name, logit in zip(names, logits, strict=True) if name not in without}
    if not left:
        return {}
    named = zip(left, softmax(list(left.values())), strict=True)
    return {name: round(float(share), 6) for name, share in sorted(named, key=lambda item: -item[1])}


def _mean(seen: ImageScores) -> ImageScores:
    """Return the mean over views (V, ...) as one image's scores, whatever a model gives."""
    return ImageScores._make(None if one is None else one.mean(axis=0, keepdims=True) for one in seen)


def _patterns(logits: Floats | None, untaught: Sequence[str]) -> dict[str, Any]:
    if logits is None:
        return {}
    bcc, *patterns = (round(float(one), 6) for one in expit(logits[0]))
    taught = np.array([name not in untaught for name in BCC_PATTERNS])
    named = zip(BCC_PATTERNS, patterns, strict=True)
    can_tell = taught[0] and taught[1:].any()
    return {
        "bcc": bcc,
        "patterns": {name: share for name, share in named if name not in untaught},
        "rule_suggests_bcc": bool(suggests_bcc((logits[:, 1:] >= 0) & taught)[0]) if can_tell else None,
    }
