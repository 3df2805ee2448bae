"""Losses for sites whose classes are unlike: what is added to each class's logit, in the loss alone.

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
