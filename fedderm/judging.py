"""What a site makes of a finished model: its scores, its thresholds, what has changed, and for whom."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedderm.evaluation.bcc_rule import evaluate_patterns
from fedderm.evaluation.counts import Counts, counts_of
from fedderm.evaluation.diagnosis import evaluate_diagnoses
from fedderm.evaluation.disclosure import folded, told
from fedderm.evaluation.distance import BINS, distance_histogram, distances
from fedderm.evaluation.documents import (
    WITH_PRIOR,
    OperatingPoint,
    PersonalEvaluation,
    ShiftDiagnosis,
    SiteEvaluation,
)
from fedderm.evaluation.head_documents import DiagnosisEvaluation, PatternEvaluation
from fedderm.evaluation.informed import FederationEvidence
from fedderm.evaluation.long_format import CALIBRATION
from fedderm.evaluation.recalibration import EvaluationSettings, site_seed
from fedderm.evaluation.replicates import Replicates, site_replicates
from fedderm.evaluation.scores import Ints, Scores
from fedderm.evaluation.shift import diagnose
from fedderm.evaluation.shift_reference import ShiftReference
from fedderm.evaluation.site_evaluation import evaluate_site
from fedderm.evaluation.thresholds import positives_needed
from fedderm.local_site import LocalSite, Seen
from fedderm.model.heads import Heads
from fedderm.recipe import Terms
from fedderm.site_method import SiteMethod
from sites.diagnosis_schemes import NAMES


@dataclass(frozen=True)
class Frame:
    """What the federation tells a site beside the model."""

    point: OperatingPoint
    evidence: FederationEvidence | None
    reference: ShiftReference | None
    """What the training sites look like; None where they cannot say."""


@dataclass(frozen=True)
class Judged:
    """A site's document, and what it adds to the pool."""

    evaluation: SiteEvaluation
    counts: Mapping[str, Counts]
    """Of the test split by pool; of the calibration split at CALIBRATION."""
    replicates: Mapping[str, Replicates]
    """Keys ``pool.unit``."""
    scores: Mapping[str, Scores]
    """By split, of each image in the order of the site's table: they stay at the site."""
    distances: Ints
    """``(512,)`` how far a training site's calibration images lie from the reference; zeros where there is
    none, and of a held-out site."""


def judge(
    site: LocalSite, model: Heads, terms: Terms, frame: Frame, views: int, method: SiteMethod | None = None
) -> Judged:
    """Return what ``model`` is worth at ``site``, before and after the site's own recalibration.

    Where ``method`` gives the site a personal model, it is judged beside the global one, and ``model`` is
    that one afterwards. But for the scores, nothing in the result goes below the site's minimum cell size.
    """
    settings, name = terms.evaluation, site.settings.name
    calibration, test = (
        site.score(model, split, views, terms.training.precision) for split in ("calibration", "test")
    )
    evaluation = evaluate_site(
        site=name,
        role=site.settings.role,
        calibration=calibration.scores,
        test=test.scores,
        sizes=site.sizes(),
        diagnoses=site.diagnoses(),
        attributes=site.attributes("test"),
        federation_point=frame.point,
        evidence=frame.evidence,
        shift=_shift(site, calibration, frame, terms),
        settings=_settings(site, terms),
    )
    further = {
        "patterns": _patterns(site, test),
        "diagnosis_head": _diagnoses(site, {"calibration": calibration, "test": test}, terms),
    }
    evaluation = evaluation.model_copy(update=further)
    away = _distances(site, calibration, frame)
    pools = _pools(site, test.scores, terms)
    shown: dict[str, Counts] = {}
    for pool, one in {**pools, CALIBRATION: folded(calibration.scores, site.settings.min_cell)}.items():
        shown |= told(pool, counts_of(one), site.settings.min_cell)
    replicates = {
        f"{pool}.{unit}": drawn
        for pool, scores in pools.items()
        for unit, drawn in site_replicates(
            scores,
            resamples=settings.bootstrap,
            seed=site_seed(terms.seed, name, "replicates"),
            threshold=frame.point.threshold,
            min_cell=site.settings.min_cell,
        ).items()
    }
    if method is not None and method.personal:
        method.personalise(model)
        personal = _personal(site, model, terms, frame, views)
        evaluation = evaluation.model_copy(update={"personal": personal})
    scores = {"calibration": calibration.scores, "test": test.scores}
    return Judged(evaluation, shown, replicates, scores, away)


def _patterns(site: LocalSite, test: Seen) -> PatternEvaluation | None:
    """Return what the heads of BCC and patterns are worth, of a model that has them."""
    if test.patterns is None:
        return None
    labels = site.patterns(site.rows("test"))
    scores, min_cell = test.scores, site.settings.min_cell
    return evaluate_patterns(test.patterns, scores.truth, labels, scores.lesion, min_cell)


def _diagnoses(site: LocalSite, seen: Mapping[str, Seen], terms: Terms) -> DiagnosisEvaluation | None:
    """Return what the head of diagnoses is worth on each split that has images, of a model that has one."""
    found = {}
    for split, one in seen.items():
        labels = site.named(site.rows(split))
        if labels is not None and one.diagnoses is not None:
            found[split] = (one.diagnoses, labels, one.scores.lesion)
    if not found:
        return None
    seed = site_seed(terms.seed, site.settings.name, "diagnoses")
    names = NAMES[site.diagnosis_scheme]
    return evaluate_diagnoses(found, names, terms.evaluation.bootstrap, seed, site.settings.min_cell)


def _settings(site: LocalSite, terms: Terms) -> EvaluationSettings:
    settings = terms.evaluation
    return EvaluationSettings(
        target_sensitivity=settings.target_sensitivity,
        confidence=settings.confidence,
        bootstrap=settings.bootstrap,
        seed=terms.seed,
        scheme=terms.model.scheme,
        min_cell=site.settings.min_cell,
        target_npv=settings.target_npv,
        max_referral=settings.max_referral,
    )


def _personal(site: LocalSite, model: Heads, terms: Terms, frame: Frame, views: int) -> PersonalEvaluation:
    """Return what the site's personal model is worth at the site, at a threshold of its own."""
    calibration, test = (
        site.score(model, split, views, terms.training.precision).scores for split in ("calibration", "test")
    )
    found = evaluate_site(
        site=site.settings.name,
        role=site.settings.role,
        calibration=calibration,
        test=test,
        sizes=site.sizes(),
        diagnoses={},
        attributes={},
        federation_point=frame.point,
        evidence=None,
        shift=None,
        settings=_settings(site, terms),
    )
    return PersonalEvaluation(
        operating_point=found.site_point, certificate=found.certificate, performance=found.after
    )


def _shift(site: LocalSite, calibration: Seen, frame: Frame, terms: Terms) -> ShiftDiagnosis | None:
    """Return what changed at a held-out site, from its calibration images; their labels are not looked at.

    A training site is part of what it would be compared with.
    """
    if frame.reference is None or site.settings.role == "train":
        return None
    settings = terms.evaluation
    seed = site_seed(terms.seed, site.settings.name, "shift").generate_state(1)
    return diagnose(
        frame.reference,
        calibration.scores.triage,
        calibration.features,
        calibration.scores.lesion,
        seed=int(np.asarray(seed)[0]),
        positives_needed=positives_needed(settings.target_sensitivity, settings.confidence),
    )


def _distances(site: LocalSite, calibration: Seen, frame: Frame) -> Ints:
    """Return where a training site's calibration images lie: what is usual is told by training sites."""
    if frame.reference is None or site.settings.role != "train" or not frame.reference.features.numbers.any():
        return np.zeros(BINS, np.int64)
    found = distances(frame.reference.features, calibration.features)
    return distance_histogram(found, site.settings.min_cell)


def _pools(site: LocalSite, test: Scores, terms: Terms) -> dict[str, Scores]:
    """Return the test scores that the site adds to each pool."""
    shown = folded(test, site.settings.min_cell)
    pools: dict[str, Scores] = {site.settings.role: shown}
    # Beside the raw scores, the shifted ones tell the prevalence: not where a site keeps small cells to
    # itself.
    if site.settings.role == "train" and terms.prevalence_free and site.settings.min_cell <= 1:
        pools[WITH_PRIOR] = shown.shifted(site.log_odds())
    return pools
