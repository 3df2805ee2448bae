"""Losses for sites whose classes are unlike: what is added to each class's logit, in the loss alone, and what
an image weighs.

All are one form, a softmax cross-entropy on ``logit_k + s_k``, where s_k follows from n_k, how many images of
class k the site draws. Only differences of s count, so a site with as many of each class is left as it is.

- ``logit_adjustment``: ``s_k = tau * log(n_k / N)`` (Menon et al., "Long-tail learning via logit
  adjustment", ICLR 2021, Eq. 10). ``tau = 1`` is Balanced Softmax (Ren et al., "Balanced Meta-Softmax for
  Long-Tailed Visual Recognition", NeurIPS 2020): the network learns what an image says, not the site's
  prevalence.
- ``fedlc``: ``s_k = -tau * n_k ** -1/4``, so that class y wins over k only with the margin
  ``tau * (n_y ** -1/4 - n_k ** -1/4)`` (Zhang et al., "Federated Learning with Label Distribution Skew via
  Logits Calibration", ICML 2022): rarer classes get wider margins.

A class that a site lacks has s = -inf, the limit of both: the site neither raises nor lowers its logit.
"""

import numpy as np
import numpy.typing as npt

from fedderm.training_settings import Scheme, TrainingSettings

Floats = npt.NDArray[np.float64]


def class_shifts(drawn: Floats, settings: TrainingSettings) -> Floats:
    """Return s, (..., K), for ``drawn`` (..., K): how many images of each class a site draws.

    Raises ValueError for a negative number.
    """
    if (drawn < 0).any():
        raise ValueError("a class cannot be drawn a negative number of times")
    tau = settings.label_skew_tau
    if settings.label_skew == "none" or tau == 0:
        return np.zeros_like(drawn, dtype=np.float64)
    with np.errstate(divide="ignore"):
        if settings.label_skew == "fedlc":
            return np.asarray(-tau * np.power(drawn, -0.25))
        return np.asarray(tau * np.log(drawn / drawn.sum(axis=-1, keepdims=True)))


def diagnosis_shifts(drawn: Floats, settings: TrainingSettings) -> Floats:
    """Return what is added to the logits of K diagnoses, (n, K), for ``drawn`` (n, K) of each image's site.

    As of the scheme's own heads: a rare diagnosis is not unlikely for being rare, and one that a site lacks
    is left alone there. 0 for images of a site that draws no labelled one: a softmax over nothing has
    no value.
    """
    shifts = np.zeros_like(drawn, dtype=np.float64)
    some = drawn.sum(axis=1) > 0
    shifts[some] = class_shifts(drawn[some], settings)
    return shifts


def logit_shifts(drawn: Floats, scheme: Scheme, settings: TrainingSettings) -> Floats:
    """Return what is added to the triage logit and to the three malignant logits, (n, 4).

    ``drawn`` (n, 4): how many benign, MEL, SCC and BCC images each image's site draws. The triage logit of
    ``four_class`` is log sum exp(malignant) - benign, so that its column holds the benign logit's part only.
    """
    both = settings.label_skew_heads == "both"
    malignant = class_shifts(drawn[:, 1:], settings) if both else np.zeros_like(drawn[:, 1:])
    if both and scheme == "four_class":
        every = class_shifts(drawn, settings)
        return np.concatenate([-every[:, :1], every[:, 1:]], axis=1)
    two = class_shifts(np.stack([drawn[:, 0], drawn[:, 1:].sum(axis=1)], axis=1), settings)
    return np.concatenate([two[:, 1:] - two[:, :1], malignant], axis=1)


def class_weights(drawn: Floats, beta: float, malignant_cost: float) -> Floats:
    """Return what an image of each class weighs in the loss, (..., K), benign first, one on average.

    ``drawn`` (..., K): how many of each class a site draws. ``beta``: the inverse of the effective number
    ``(1 - beta^n) / (1 - beta)`` (Cui et al., "Class-Balanced Loss Based on Effective Number of Samples",
    CVPR 2019, Eq. 2); 0: all alike. ``malignant_cost``: all classes but the first weigh as many times more.
    The mean over what a site draws is one, so that weights do not change the length of its steps.
    """
    here = drawn > 0
    effective = (1 - np.power(beta, np.where(here, drawn, 1.0))) / (1 - beta)
    weights = np.where(here, 1 / effective, 0.0)
    weights[..., 1:] *= malignant_cost
    total = drawn.sum(axis=-1, keepdims=True)
    mean = (weights * drawn).sum(axis=-1, keepdims=True) / np.where(total > 0, total, 1)
    return np.asarray(weights / np.where(mean > 0, mean, 1))


def loss_terms(
    drawn: Floats, classes: npt.NDArray[np.int64], scheme: Scheme, settings: TrainingSettings
) -> Floats:
    """Return what the loss takes of each image beside its logits and class, (n, 6).

    Four of ``logit_shifts``; what the image weighs in the triage loss; and in that of MEL, SCC and BCC, or of
    all four classes with scheme four_class. ``drawn`` (n, 4), ``classes`` (n,).
    """
    shifts = logit_shifts(drawn, scheme, settings)
    loss = settings.loss
    if loss.class_balance == 0 and loss.malignant_cost == 1:
        return np.concatenate([shifts, np.ones((len(classes), 2))], axis=1)
    two = np.stack([drawn[:, 0], drawn[:, 1:].sum(axis=1)], axis=1)
    triage = class_weights(two, loss.class_balance, loss.malignant_cost)
    if scheme == "four_class":
        last = class_weights(drawn, loss.class_balance, loss.malignant_cost)
    else:
        # A malignant image's cost is paid in the triage; among the malignant all cost the same.
        last = np.ones_like(drawn)
        last[:, 1:] = class_weights(drawn[:, 1:], loss.class_balance, 1.0)
    rows = np.arange(len(classes))
    chosen = np.stack([triage[rows, (classes > 0).astype(int)], last[rows, classes]], axis=1)
    return np.concatenate([shifts, chosen], axis=1)
