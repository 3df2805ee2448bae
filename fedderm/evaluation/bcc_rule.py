"""The clinical rule for BCC, what the network's heads are worth, and how often its own outputs obey the rule.

Menzies et al., "Surface microscopy of pigmented basal cell carcinoma", Arch Dermatol 136 (2000) 1012-1016: no
pigment network, and one positive criterion or more. arXiv 2407.00104 asks it of a multitask network.
"""

import numpy as np
from numpy.typing import NDArray

from fedderm.evaluation.documents import Estimate
from fedderm.evaluation.head_documents import PatternEvaluation, PatternRates
from fedderm.evaluation.proportions import auc_interval, wilson
from fedderm.evaluation.ranking import auc
from sites.diagnoses import BCC_PATTERNS, CLASSES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_BCC = CLASSES.index("BCC")


def suggests_bcc(patterns: Bools) -> Bools:
    """Return (N,) whether patterns (N, 7), in the order of ``BCC_PATTERNS``, suggest BCC.

    Pigment network, the first, excludes it, whatever else there is; any of the others suggests it.
    """
    return np.asarray(~patterns[:, 0] & patterns[:, 1:].any(axis=1))


def evaluate_patterns(
    logits: Floats,
    truth: NDArray[np.int64],
    labels: Floats | None,
    lesions: NDArray[np.str_],
    min_cell: int = 0,
) -> PatternEvaluation:
    """Return what the heads of BCC and patterns say of a test split's lesions, with 95 % intervals.

    ``logits`` (N, 8) of images: BCC, then the patterns; ``truth`` (N,): classes; ``labels`` (N, 7): 1, 0 or
    NaN. A lesion's logit is its images' mean; a pattern is present in a lesion where it is in one of its
    images. A head says yes from a logit of 0 on. A rate whose denominator is below ``min_cell`` is not told.
    """
    ids, place = np.unique(lesions, return_inverse=True)
    sizes = np.bincount(place, minlength=len(ids))
    mean = np.stack([np.bincount(place, one, minlength=len(ids)) / np.maximum(sizes, 1) for one in logits.T])
    bcc_truth = np.zeros(len(ids), bool)
    np.logical_or.at(bcc_truth, place, truth == _BCC)
    says, found = mean[0] >= 0, mean[1:].T >= 0
    suggested = suggests_bcc(found)
    hidden = _hidden(bcc_truth, min_cell)

    def rate(hits: Bools, among: Bools | None = None) -> Estimate:
        among = np.ones(len(ids), bool) if among is None else among
        return Estimate(value=None) if hidden else _rate(hits & among, among, min_cell)

    return PatternEvaluation(
        n=0 if hidden else len(ids),
        positives=0 if hidden else int(bcc_truth.sum()),
        accuracy=rate(np.asarray(says == bcc_truth)),
        precision=rate(bcc_truth, says),
        recall=rate(says, bcc_truth),
        auc=_auc(mean[0], bcc_truth, min_cell),
        rule_obeyed=rate(np.asarray(says == suggested)),
        rule_obeyed_bcc=rate(suggested, says),
        rule_obeyed_other=rate(~suggested, ~says),
        relevant_found=rate(np.asarray(found[:, 1:].any(axis=1)), bcc_truth),
        exclusion_met=rate(found[:, 0], ~bcc_truth),
        patterns=[] if labels is None else _patterns(mean[1:], labels, place, len(ids), min_cell),
    )


def _patterns(
    mean: Floats, labels: Floats, place: NDArray[np.intp], lesions: int, min_cell: int
) -> list[PatternRates]:
    rates, nothing = [], Estimate(value=None)
    for name, logit, given in zip(BCC_PATTERNS, mean, labels.T, strict=True):
        known, present = np.zeros(lesions, bool), np.zeros(lesions, bool)
        np.logical_or.at(known, place, ~np.isnan(given))
        np.logical_or.at(present, place, given == 1)
        absent, hidden = known & ~present, _hidden(present[known], min_cell)
        rates.append(
            PatternRates(
                pattern=name,
                n=0 if hidden else int(known.sum()),
                positives=0 if hidden else int(present.sum()),
                sensitivity=nothing if hidden else _rate((logit >= 0) & present, present, min_cell),
                specificity=nothing if hidden else _rate((logit < 0) & absent, absent, min_cell),
                auc=_auc(logit[known], present[known], min_cell),
            )
        )
    return rates


def _hidden(positive: Bools, min_cell: int) -> bool:
    return min_cell > 1 and min(int(positive.sum()), int((~positive).sum())) < min_cell


def _rate(hits: Bools, among: Bools, min_cell: int) -> Estimate:
    n = int(among.sum())
    if n == 0 or (min_cell > 1 and n < min_cell):
        return Estimate(value=None)
    lower, upper = wilson(int(hits.sum()), n)
    return Estimate(value=float(hits.sum()) / n, lower=lower, upper=upper)


def _auc(logit: Floats, positive: Bools, min_cell: int) -> Estimate:
    counts = int(positive.sum()), int((~positive).sum())
    if min(counts) == 0 or _hidden(positive, min_cell):
        return Estimate(value=None)
    value = float(auc(logit[positive], np.sort(logit[~positive]), np.ones(counts[0]), np.ones(counts[1])))
    lower, upper = auc_interval(value, *counts)
    return Estimate(value=value, lower=lower, upper=upper)
