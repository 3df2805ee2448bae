"""What changed at a site, told from unlabelled scores and features: prevalence, acquisition, both or neither.

Two questions, each at a level of ALARM for a site that is like the training sites: does the site's mean, of
features or of its score histogram, depart from the training sites' in a way that no case mix explains
(``departure.py``); and does the prevalence that its scores tell (``unlabelled_prevalence.py``) differ from
the one that the calibration map stands for. *Neither* means no more than the training sites
differ among themselves, not that nothing changed.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedderm.evaluation.departure import Departure, departure
from fedderm.evaluation.documents import Estimate, ShiftDiagnosis
from fedderm.evaluation.scores import Ints
from fedderm.evaluation.shift_reference import (
    EDGES,
    FEWEST_OF_CLASS,
    Block,
    ShiftReference,
    block_of,
    lesion_means,
)
from fedderm.evaluation.shift_sentences import Verdict, action_of, sentence_of
from fedderm.evaluation.unlabelled_prevalence import UnlabelledPrevalence, unlabelled_prevalence

ALARM: Final = 0.05
"""Probability of each of the two alarms at a site like the training sites."""

FEWEST_LESIONS: Final = 40
"""Below, nothing is said (a choice)."""

FEWEST_SITES: Final = 3
"""Training sites from which their differences can be told at all."""

WIDEST: Final = 0.5
"""Width of the prevalence's interval above which no alarm means *unknown* (a choice)."""

_SCORE_BINS: Final = 10


def diagnose(
    reference: ShiftReference,
    triage: ArrayLike,
    features: ArrayLike,
    lesion: ArrayLike,
    *,
    seed: int,
    positives_needed: int = 29,
) -> ShiftDiagnosis:
    """Return what changed at a site with triage logits ``triage`` (N,) and ``features`` (N, D) of N images.

    ``lesion`` (N,) groups the images; lesions are counted. No label is used. ``positives_needed`` is how many
    malignant lesions a certificate takes; it decides how many labels are asked for. Raises ValueError for
    lengths and widths that do not fit.
    """
    rows, ids = lesion_means(features, lesion)
    logits, _ = lesion_means(np.asarray(triage, dtype=np.float64)[:, None], lesion)
    if rows.shape[1] != len(reference.features.scale):
        raise ValueError(
            f"shift: the reference has {len(reference.features.scale)} features, the site {rows.shape[1]}"
        )
    missing = _what_is_missing(reference, len(ids))
    if missing:
        return _cannot_tell(reference, missing, len(ids))
    groups = _score_groups(reference.histograms)
    bins = np.eye(groups.max() + 1)[groups[np.searchsorted(EDGES, logits[:, 0], side="right")]]
    by_site = _grouped(reference.histograms, groups)
    found = {
        "features": departure(reference.features, rows),
        "scores": departure(_score_block(by_site), bins),
    }
    # Two looks at the same question (Bonferroni).
    p_acquisition = min(1.0, 2 * min(one.p_value for one in found.values()))
    moved = p_acquisition < ALARM
    prevalence = unlabelled_prevalence(
        bins.sum(axis=0).astype(np.int64),
        np.stack([by_site[:, 0], by_site[:, 1:].sum(axis=1)], axis=1),
        reference.prevalence,
        max(1.0, *(one.ratio for one in found.values())) if moved else 1.0,
        np.random.default_rng(seed),
        1 - ALARM,
    )
    return _document(reference.prevalence, prevalence, found, p_acquisition, len(ids), positives_needed)


def _score_groups(histograms: Ints) -> NDArray[np.intp]:
    """Return the group, from 0, of each coarse bin: tenths of a half benign, half malignant mixture."""
    total = histograms.sum(axis=0).astype(np.float64)
    sides = np.stack([total[0], total[1:].sum(axis=0)])
    mixture = (sides / sides.sum(axis=1, keepdims=True)).mean(axis=0)
    middle = np.cumsum(mixture) - mixture / 2
    return np.unique((middle * _SCORE_BINS).astype(np.intp), return_inverse=True)[1]


def _grouped(histograms: Ints, groups: NDArray[np.intp]) -> Ints:
    """Return ``(K, 4, J)`` lesions by site, class and group of bins."""
    return np.asarray(histograms @ np.eye(groups.max() + 1, dtype=np.int64)[groups])


def _score_block(by_site: Ints) -> Block:
    """Return the block whose quantities are the shares of lesions in each group of bins."""
    totals = by_site.astype(np.float64)
    # A lesion is in a group or not: its square is itself.
    return block_of(by_site.sum(axis=2), totals, totals)


def _what_is_missing(reference: ShiftReference, lesions: int) -> str:
    classes = reference.histograms.sum(axis=(0, 2))
    benign, malignant = int(classes[0]), int(classes[1:].sum())
    sites = min(len(reference.features.lesions), int((reference.histograms.sum(axis=(1, 2)) > 0).sum()))
    if lesions < FEWEST_LESIONS:
        return f"{lesions} lesions here, at least {FEWEST_LESIONS} are needed"
    if sites < FEWEST_SITES:
        return f"{sites} training sites to compare with, at least {FEWEST_SITES} are needed"
    if min(benign, malignant) < FEWEST_OF_CLASS:
        return (
            f"the training sites sent {malignant} malignant and {benign} benign calibration lesions, at "
            f"least {FEWEST_OF_CLASS} of each are needed"
        )
    return ""


def _cannot_tell(reference: ShiftReference, missing: str, lesions: int) -> ShiftDiagnosis:
    return ShiftDiagnosis(
        verdict="unknown",
        prevalence=Estimate(value=None),
        reference_prevalence=reference.prevalence,
        prior_shift=0.0,
        evidence={"lesions": float(lesions)},
        sentence=f"What changed here cannot be told: {missing}.",
        action=f"Collect labels, or at least {FEWEST_LESIONS} lesions' images, before relying on the model.",
    )


def _document(
    reference: float,
    prevalence: UnlabelledPrevalence,
    found: dict[str, Departure],
    p_acquisition: float,
    lesions: int,
    positives_needed: int,
) -> ShiftDiagnosis:
    moved, other = p_acquisition < ALARM, not prevalence.lower <= reference <= prevalence.upper
    verdict = _verdict(prevalence, moved=moved, other=other)
    evidence = {
        "lesions": float(lesions),
        "acquisition-p": p_acquisition,
        **{f"{name}-ratio": one.ratio for name, one in found.items()},
        **{f"{name}-p": one.p_value for name, one in found.items()},
        "prevalence-p": prevalence.p_value,
        "prevalence-error-between-sites": prevalence.between_sites,
    }
    shift = _log_odds(prevalence.value, lesions) - _log_odds(reference, lesions)
    return ShiftDiagnosis(
        verdict=verdict,
        prevalence=Estimate(value=prevalence.value, lower=prevalence.lower, upper=prevalence.upper),
        reference_prevalence=reference,
        prior_shift=shift if verdict == "prevalence" else 0.0,
        evidence=evidence,
        sentence=sentence_of(verdict, reference, prevalence, found, p_acquisition),
        action=action_of(verdict, reference, max(one.ratio for one in found.values()), positives_needed),
    )


def _verdict(prevalence: UnlabelledPrevalence, *, moved: bool, other: bool) -> Verdict:
    if moved:
        return "both" if other else "acquisition"
    if other:
        return "prevalence"
    return "unknown" if prevalence.upper - prevalence.lower > WIDEST else "neither"


def _log_odds(prevalence: float, lesions: int) -> float:
    # Half a lesion is the least that can be told from none.
    kept = min(max(prevalence, 0.5 / lesions), 1 - 0.5 / lesions)
    return math.log(kept / (1 - kept))
