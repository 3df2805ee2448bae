"""Minimum cell sizes in documents: what a hospital's policy keeps from a site's evaluation.

A rate is published where its denominators reach ``min_cell``. ``disclosure.py`` does the same for counts.
"""

from typing import Any

import numpy as np

from fedderm.evaluation.documents import (
    Certificate,
    Estimate,
    PairedDecisions,
    Performance,
    ReliabilityBin,
    Roc,
    ShiftDiagnosis,
    SiteEvaluation,
    SplitSize,
    ThresholdOffer,
    Unit,
    Zone,
)
from fedderm.evaluation.proportions import wilson


def redact(evaluation: SiteEvaluation, min_cell: int) -> SiteEvaluation:
    """Return a site's document without counts below ``min_cell``; the same document for ``min_cell`` 0 or 1.

    A split with fewer malignant or benign units shows no metrics and n = 0; split sizes and diagnoses below
    become 0 or are left out; a confusion matrix with a small cell is left empty; ROC points and reliability
    bins are thinned until each step holds enough units; threshold offers, zones and paired decisions that
    rest on fewer lesions are left out. Subgroups keep to the minimum by themselves.
    """
    if min_cell <= 1:
        return evaluation
    test = {unit: (p.positives, p.n - p.positives) for unit, p in evaluation.before.items()}
    hidden = _calibration_hidden(evaluation, min_cell)
    own = evaluation.site_point
    if hidden:
        own = own.model_copy(update={"origin": _origin(evaluation, min_cell), "prevalence": None})
    return evaluation.model_copy(
        update={
            "splits": {name: _size(size, min_cell) for name, size in evaluation.splits.items()},
            "diagnoses": {name: n for name, n in evaluation.diagnoses.items() if n >= min_cell},
            "site_point": own,
            "certificate": _certificate(evaluation.certificate, min_cell),
            "before": _performances(evaluation.before, min_cell),
            "after": _performances(evaluation.after, min_cell),
            # Whole site less test would be the calibration split.
            "whole_site": {} if hidden else _performances(evaluation.whole_site, min_cell),
            "roc": {unit: _thin(roc, *test[unit], min_cell) for unit, roc in evaluation.roc.items()},
            "reliability_before": _merge_bins(evaluation.reliability_before, min_cell),
            "reliability_after": _merge_bins(evaluation.reliability_after, min_cell),
            "thresholds": _offers(evaluation, min_cell),
            "zones": [] if hidden else _zones(evaluation.zones, min_cell),
            "shift": _shift(evaluation.shift, min_cell),
            "decisions": _decisions(evaluation.decisions, min_cell),
        }
    )


def _hide(n: int, min_cell: int) -> int:
    return n if n >= min_cell else 0


def _size(size: SplitSize, min_cell: int) -> SplitSize:
    found = {name: _hide(n, min_cell) for name, n in size.model_dump().items()}
    if any(0 < n < min_cell for n in (size.positive_lesions, size.lesions - size.positive_lesions)):
        # Images of a lesion are no protection, and the other class would tell this one.
        found |= {"positive_images": 0, "positive_lesions": 0}
    return SplitSize(**found)


def _calibration_hidden(evaluation: SiteEvaluation, min_cell: int) -> bool:
    """Return whether the calibration split has a class that the minimum hides."""
    size = evaluation.splits.get("calibration")
    counted = () if size is None else (size.positive_lesions, size.lesions - size.positive_lesions)
    return any(0 < n < min_cell for n in (*counted, evaluation.certificate.positives))


def _origin(evaluation: SiteEvaluation, min_cell: int) -> str:
    source = "The site's own" if evaluation.certificate.certified else "The federation's"
    return (
        f"{source} threshold; {evaluation.site_point.calibration} calibration. The calibration split has "
        f"fewer than {min_cell} malignant or benign lesions, and the site's policy does not say how many."
    )


def _certificate(certificate: Certificate, min_cell: int) -> Certificate:
    if certificate.positives == 0 or certificate.positives >= min_cell:
        return certificate
    sentence = (
        f"Cannot be certified: fewer than {min_cell} malignant lesions now, {certificate.needed} needed."
        if not certificate.certified
        else f"Certified from fewer than {min_cell} malignant lesions."
    )
    return certificate.model_copy(update={"positives": 0, "sentence": sentence})


def _performances(found: dict[Unit, Performance], min_cell: int) -> dict[Unit, Performance]:
    # Images of a lesion are no protection: both units are hidden where either has a small class.
    small = any(0 < n < min_cell for p in found.values() for n in (p.positives, p.n - p.positives))
    return {unit: _performance(value, min_cell, hidden=small) for unit, value in found.items()}


def _performance(found: Performance, min_cell: int, *, hidden: bool) -> Performance:
    if hidden:
        nothing = dict.fromkeys(found.metrics, Estimate(value=None))
        return found.model_copy(update={"n": 0, "positives": 0, "metrics": nothing, "confusion": []})
    small = any(0 < cell < min_cell for row in found.confusion for cell in row)
    referred = sum(sum(row[1:]) for row in found.confusion)
    update: dict[str, Any] = {"confusion": []} if small else {}
    if 0 < referred < min_cell:  # the group that PPV is a rate of
        update["metrics"] = {**found.metrics, "ppv": Estimate(value=None)}
    return found.model_copy(update=update)


def _thin(roc: Roc, positives: int, negatives: int, min_cell: int) -> Roc:
    points = np.stack([roc.false_positive_rate, roc.true_positive_rate], axis=1)
    if len(points) == 0 or min(positives, negatives) < min_cell:
        return Roc(false_positive_rate=[], true_positive_rate=[])
    units = np.rint(points * [negatives, positives])
    kept = [0]
    for index in range(1, len(units) - 1):
        steps = np.stack([units[index] - units[kept[-1]], units[-1] - units[index]])
        if not np.any((steps > 0) & (steps < min_cell)):
            kept.append(index)
    kept.append(len(units) - 1)
    return Roc(false_positive_rate=points[kept, 0].tolist(), true_positive_rate=points[kept, 1].tolist())


def _merge_bins(bins: list[ReliabilityBin], min_cell: int) -> list[ReliabilityBin]:
    groups: list[list[ReliabilityBin]] = [[]]
    for one in bins:
        if sum(b.n for b in groups[-1]) >= min_cell:
            groups.append([])
        groups[-1].append(one)
    if len(groups) > 1 and sum(b.n for b in groups[-1]) < min_cell:
        groups[-2].extend(groups.pop())
    return [_joined(group) for group in groups if sum(b.n for b in group) >= min_cell]


def _joined(group: list[ReliabilityBin]) -> ReliabilityBin:
    n = sum(b.n for b in group)
    hits = round(sum(b.observed * b.n for b in group))
    lower, upper = wilson(hits, n)
    predicted = sum(b.predicted * b.n for b in group) / n
    return ReliabilityBin(predicted=predicted, observed=hits / n, lower=lower, upper=upper, n=n)


def _offers(evaluation: SiteEvaluation, min_cell: int) -> list[ThresholdOffer]:
    """Return the offers of a site whose calibration and test lesions of either kind reach the minimum."""
    shown = evaluation.before.get("lesion")
    test = (shown.positives, shown.n - shown.positives) if shown else ()
    if _calibration_hidden(evaluation, min_cell) or any(0 < n < min_cell for n in test):
        return []
    n = shown.n if shown else 0
    return [_offer(offer, n, min_cell) for offer in evaluation.thresholds]


def _offer(offer: ThresholdOffer, n: int, min_cell: int) -> ThresholdOffer:
    """Return an offer whose sentence counts no errors, and whose NPV has lesions enough below it."""
    referred = offer.referrals_per_1000.value
    below = 0 if referred is None else round(n * (1 - referred / 1000))
    update: dict[str, Any] = {"npv": Estimate(value=None)} if 0 < below < min_cell else {}
    if offer.method in ("npv", "referral"):
        said = "Certified" if offer.certified else "Cannot be certified"
        update["promise"] = f"{said} at the run's target and confidence; the site's policy keeps the counts."
    return offer.model_copy(update=update)


def _zones(zones: list[Zone], min_cell: int) -> list[Zone]:
    if any(0 < n < min_cell for zone in zones for n in (zone.malignant, zone.lesions - zone.malignant)):
        return []
    basis = "The bounds' origins hold counts that the site's policy keeps."
    return [zone.model_copy(update={"basis": basis}) for zone in zones]


def _shift(shift: ShiftDiagnosis | None, min_cell: int) -> ShiftDiagnosis | None:
    lesions = None if shift is None else shift.evidence.get("lesions")
    if shift is None or lesions is None or lesions >= min_cell:
        return shift
    kept = {name: value for name, value in shift.evidence.items() if name != "lesions"}
    sentence = f"What changed here cannot be told: fewer than {min_cell} lesions."
    return shift.model_copy(update={"evidence": kept, "sentence": sentence})


def _decisions(decisions: PairedDecisions | None, min_cell: int) -> PairedDecisions | None:
    if decisions is None or any(0 < n < min_cell for n in (decisions.only_before, decisions.only_after)):
        return None
    return decisions
