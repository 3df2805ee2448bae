"""Everything a site says about the final model, from its own scores."""

from collections.abc import Mapping

import numpy as np

from fedderm.evaluation.calibration import FEWEST, CalibrationMap
from fedderm.evaluation.comparison import paired_decisions
from fedderm.evaluation.documents import (
    Certificate,
    Estimate,
    OperatingPoint,
    Performance,
    ShiftDiagnosis,
    SiteEvaluation,
    SplitSize,
    ThresholdOffer,
    Unit,
)
from fedderm.evaluation.informed import FederationEvidence
from fedderm.evaluation.intervals import performance
from fedderm.evaluation.metrics import reliability, roc_of
from fedderm.evaluation.offers import threshold_offers
from fedderm.evaluation.recalibration import EvaluationSettings, operating_point, site_point, site_seed
from fedderm.evaluation.redaction import redact
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.subgroup_levels import Names
from fedderm.evaluation.subgroups import subgroups
from fedderm.evaluation.zones import zones


def evaluate_site(
    *,
    site: str,
    role: str,
    calibration: Scores | None,
    test: Scores,
    sizes: Mapping[str, SplitSize],
    diagnoses: Mapping[str, int],
    attributes: Mapping[str, Names],
    federation_point: OperatingPoint,
    evidence: FederationEvidence | None,
    shift: ShiftDiagnosis | None,
    settings: EvaluationSettings,
) -> SiteEvaluation:
    """Return everything a site says about the final model, redacted to its minimum cell size.

    Both operating points are judged on the same test split, whose scores chose neither, and with the same
    bootstrap draws. ``attributes`` has the levels of the test images by attribute. ``evidence`` and ``shift``
    are what the federation tells of its training sites; None where it tells nothing. ``whole_site`` is filled
    for a held-out site: calibration and test together, at the federation's point.
    """
    calibration = calibration or Scores.empty()
    own, certificate = own_point(calibration, federation_point, shift, settings)
    whole = Scores.join(calibration, test) if role == "held-out" else None
    lesions = test.per_lesion()
    offers = threshold_offers(
        calibration,
        test,
        federation_point,
        evidence,
        target=settings.target_sensitivity,
        confidence=settings.confidence,
        max_referral=settings.max_referral,
        target_npv=settings.target_npv,
    )
    if shift is not None and shift.verdict in ("acquisition", "both"):
        offers = [_withheld(offer) if offer.method == "informed" else offer for offer in offers]
    by_level, gaps = subgroups(
        test,
        attributes,
        own,
        resamples=settings.bootstrap,
        rng=np.random.default_rng(site_seed(settings.seed, site, "subgroups")),
        min_cell=settings.min_cell,
    )
    found = SiteEvaluation(
        site=site,
        role=role,
        min_cell=settings.min_cell,
        splits=dict(sizes),
        diagnoses=dict(diagnoses),
        federation_point=federation_point,
        site_point=own,
        certificate=certificate,
        before=_performance(site, "test", test, federation_point, settings),
        after=_performance(site, "test", test, own, settings),
        whole_site={} if whole is None else _performance(site, "whole", whole, federation_point, settings),
        roc={"image": roc_of(test), "lesion": roc_of(lesions)},
        reliability_before=reliability(lesions, federation_point),
        reliability_after=reliability(lesions, own),
        thresholds=offers,
        zones=zones(calibration, test, _relied_on(offers, shift), own, confidence=settings.confidence),
        decisions=paired_decisions(test, federation_point, own),
        shift=shift,
        subgroups=by_level,
        subgroup_gaps=gaps,
    )
    return redact(found, settings.min_cell)


def _withheld(offer: ThresholdOffer) -> ThresholdOffer:
    """Return the informed offer of a site whose images differ: its promise is of sites like the others."""
    nothing = Estimate(value=None)
    return offer.model_copy(
        update={
            "threshold": None,
            "certified": False,
            "promise": "Not offered: the images differ from those of the training sites it would rely on.",
            "sensitivity": nothing,
            "specificity": nothing,
            "npv": nothing,
            "referrals_per_1000": nothing,
        }
    )


def _relied_on(offers: list[ThresholdOffer], shift: ShiftDiagnosis | None) -> list[ThresholdOffer]:
    """Return the offers that may bound a zone: the informed one only where nothing speaks against it."""
    alike = shift is None or shift.verdict in ("neither", "prevalence")
    return [offer for offer in offers if alike or offer.method != "informed"]


def own_point(
    calibration: Scores,
    federation_point: OperatingPoint,
    shift: ShiftDiagnosis | None,
    settings: EvaluationSettings,
) -> tuple[OperatingPoint, Certificate]:
    """Return the site's operating point and its certificate.

    A site with too few labels for a map of its own, and with a shift of prevalence and of nothing else, gets
    the federation's probabilities moved to the prevalence that its unlabelled calibration images tell.
    """
    own, certificate = site_point(calibration, federation_point, settings)
    lesions = calibration.per_lesion()
    positive = int(np.count_nonzero(lesions.positive))
    few = min(positive, len(lesions) - positive) < FEWEST
    if shift is None or not shift.prior_shift or not few:
        return own, certificate
    moved = CalibrationMap.of(federation_point).shifted(shift.prior_shift)
    origin = (
        f"{own.origin} Moved to a prevalence of {shift.prevalence.value or 0:.2f}, estimated without labels."
    )
    return operating_point(moved, own.threshold, origin, shift.prevalence.value), certificate


def _performance(
    site: str, purpose: str, scores: Scores, point: OperatingPoint, settings: EvaluationSettings
) -> dict[Unit, Performance]:
    rng = np.random.default_rng(site_seed(settings.seed, site, purpose))
    return performance(scores, point, settings.scheme, settings.bootstrap, rng)
