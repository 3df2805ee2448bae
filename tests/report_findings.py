"""What a site says beyond its numbers, for the report's tests: drawn scores, the evaluation's own functions."""

from typing import Any

import numpy as np

from fedderm.evaluation.comparison import paired_decisions
from fedderm.evaluation.counts import counts_of
from fedderm.evaluation.documents import OperatingPoint, SiteEvaluation
from fedderm.evaluation.informed import federation_evidence
from fedderm.evaluation.offers import threshold_offers
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.shift import diagnose
from fedderm.evaluation.shift_reference import feature_summary, reference_of
from fedderm.evaluation.subgroups import subgroups
from fedderm.evaluation.zones import zones

FEATURES = 8
TARGET, CONFIDENCE = 0.9, 0.95
Splits = dict[str, dict[str, Scores]]


def with_findings(
    sites: dict[str, SiteEvaluation], splits: Splits, trained: list[str]
) -> dict[str, SiteEvaluation]:
    """Return the sites' documents with thresholds offered, zones, shift, decisions and subgroups."""
    calibration = {name: held["calibration"] for name, held in splits.items()}
    counts = {name: counts_of(calibration[name]) for name in trained}
    summaries = {
        name: feature_summary(
            features_of(name, calibration[name]), calibration[name].truth, calibration[name].lesion, 0
        )
        for name in trained
    }
    reference = reference_of(counts, summaries)
    found = {}
    for index, (name, site) in enumerate(sites.items()):
        evidence = federation_evidence(counts, TARGET, CONFIDENCE, without=name if name in trained else None)
        own = calibration[name]
        shift = diagnose(reference, own.triage, features_of(name, own), own.lesion, seed=index)
        found[name] = site.model_copy(
            update={"shift": shift, **_thresholds(site, own, splits[name]["test"], evidence)}
            | _subgroups(splits[name]["test"], site.site_point, index)
        )
    return found


def _thresholds(site: SiteEvaluation, calibration: Scores, test: Scores, evidence: Any) -> dict[str, Any]:
    offers = threshold_offers(
        calibration, test, site.federation_point, evidence,
        target=TARGET, confidence=CONFIDENCE, max_referral=0.5, target_npv=0.98,
    )  # fmt: skip
    return {
        "thresholds": offers,
        "zones": zones(calibration, test, offers, site.site_point, confidence=CONFIDENCE),
        "decisions": paired_decisions(test, site.federation_point, site.site_point),
    }


def _subgroups(test: Scores, point: OperatingPoint, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    _, owner = np.unique(test.lesion, return_inverse=True)
    draws = {
        "age": generator.choice(["0-39", "40-59", "60-79", "80+", ""], owner.max() + 1),
        "sex": generator.choice(["female", "male", ""], owner.max() + 1, p=[0.5, 0.45, 0.05]),
    }
    attributes = {attribute: levels[owner] for attribute, levels in draws.items()}
    rows, gaps = subgroups(test, attributes, point, resamples=100, rng=generator)
    return {"subgroups": rows, "subgroup_gaps": gaps}


def features_of(name: str, scores: Scores) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return ``(N, FEATURES)`` features that know a lesion's class and, a little, its site's device."""
    generator = np.random.default_rng(len(name))
    device = generator.normal(0, 0.1, FEATURES) + (0.9 if name == "vienna_dias" else 0.0)
    means = np.linspace(-0.5, 0.5, FEATURES) * scores.positive[:, None]
    return means + device + generator.normal(0, 1, (len(scores), FEATURES))
