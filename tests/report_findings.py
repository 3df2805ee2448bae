"""What the federation tells a site and what a site knows of its lesions, for the report's tests: drawn."""

from typing import Any

import numpy as np

from fedderm.evaluation.counts import counts_of
from fedderm.evaluation.disclosure import suppress
from fedderm.evaluation.informed import federation_evidence
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.shift import diagnose
from fedderm.evaluation.shift_reference import feature_summary, reference_of

FEATURES = 8
TARGET, CONFIDENCE = 0.9, 0.95


def findings(calibration: dict[str, Scores], trained: list[str], min_cell: int) -> dict[str, dict[str, Any]]:
    """Return ``evidence`` and ``shift`` for every site, from the training sites' calibration splits."""
    counts = {name: suppress(counts_of(calibration[name]), min_cell) for name in trained}
    features = {name: _features(name, scores) for name, scores in calibration.items()}
    summaries = {
        name: feature_summary(features[name], calibration[name].truth, calibration[name].lesion, min_cell)
        for name in trained
    }
    reference = reference_of(counts, summaries)
    return {
        name: {
            "evidence": federation_evidence(
                counts, TARGET, CONFIDENCE, without=name if name in trained else None
            ),
            "shift": diagnose(reference, scores.triage, features[name], scores.lesion, seed=index),
        }
        for index, (name, scores) in enumerate(calibration.items())
    }


def drawn_attributes(test: Scores, seed: int) -> dict[str, Any]:
    """Return an age band and a sex for every image, those of a lesion alike; some are not recorded."""
    generator = np.random.default_rng(seed)
    _, owner = np.unique(test.lesion, return_inverse=True)
    draws = {
        "age": generator.choice(["0-39", "40-59", "60-79", "80+", ""], len(owner)),
        "sex": generator.choice(["female", "male", ""], len(owner), p=[0.5, 0.45, 0.05]),
    }
    return {attribute: levels[owner] for attribute, levels in draws.items()}


def _features(name: str, scores: Scores) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return ``(N, FEATURES)`` features that know a lesion's class and, a little, its site's device."""
    generator = np.random.default_rng(len(name))
    device = generator.normal(0, 0.1, FEATURES) + (0.9 if name == "vienna_dias" else 0.0)
    means = np.linspace(-0.5, 0.5, FEATURES) * scores.positive[:, None]
    return means + device + generator.normal(0, 1, (len(scores), FEATURES))
