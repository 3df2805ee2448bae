"""The loss of each image of a batch, of the three schemes."""

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fedderm.model.heads import Logits
from fedderm.pattern_losses import pattern_losses
from fedderm.training_settings import TrainingSettings
from sites.diagnosis_schemes import NO_LABEL


class FurtherLabels(NamedTuple):
    """What heads beside the scheme's learn of a batch; None where no image of the training set has any."""

    patterns: Tensor | None = None
    """``(B, 7)`` 1, 0 or NaN where there is no label."""
    diagnoses: Tensor | None = None
    """``(B,)`` index among the K diagnoses, -1 where there is no label."""
    diagnosis_shifts: Tensor | None = None
    """``(B, K)`` what is added to an image's logits in the loss (fedderm.label_skew)."""

    def part(self, rows: slice) -> Self:
        """Return the labels of a part of the batch."""
        return type(self)(*(None if one is None else one[rows] for one in self))


def image_losses(
    scheme: str,
    logits: Logits,
    classes: Tensor,
    shifts: Tensor,
    settings: TrainingSettings,
    further: FurtherLabels = FurtherLabels(),
) -> tuple[Tensor, Tensor]:
    """Return the triage loss and the whole loss of each image, (B,) in float32.

    ``classes`` (B,): 0..3; ``shifts`` (B, 4): of ``logit_shifts``; ``further``: labels of the model's
    further heads.
    """
    triage, loss = _scheme_losses(scheme, logits, classes, shifts, settings)
    if logits.patterns is not None:
        found = pattern_losses(logits.patterns, classes, further.patterns)
        loss = loss + settings.pattern_weight * found
    if logits.diagnoses is not None and further.diagnoses is not None:
        found = _diagnosis_losses(logits.diagnoses, further.diagnoses, further.diagnosis_shifts)
        loss = loss + settings.diagnosis_weight * found
    return triage, loss


def _diagnosis_losses(logits: Tensor, labels: Tensor, shifts: Tensor | None) -> Tensor:
    """Return the cross entropy (B,) of ``logits`` (B, K) in float32, 0 where an image has no label."""
    added = logits.float() if shifts is None else logits.float() + shifts
    # Neither loss nor gradient where the label is NO_LABEL: an image's class stands in for nothing here.
    return F.cross_entropy(added, labels, reduction="none", ignore_index=NO_LABEL)


def _scheme_losses(
    scheme: str, logits: Logits, classes: Tensor, shifts: Tensor, settings: TrainingSettings
) -> tuple[Tensor, Tensor]:
    """Return the triage loss and the loss of the scheme's heads, (B,) each."""
    malignant = (classes > 0).float()
    triage_logit, differential, *_ = shifted(scheme, logits, shifts)
    triage = F.binary_cross_entropy_with_logits(triage_logit, malignant, reduction="none")
    if differential is None:
        return triage, triage
    # In four classes the softmax factorises: P(class) = P(malignant) * P(class | malignant).
    per_image = F.cross_entropy(differential, (classes - 1).clamp(min=0), reduction="none")
    # Not a product: a benign image stands in for a class here that its site may lack, whose loss is infinite.
    differentiation = torch.where(classes > 0, per_image, 0.0)
    weight = 1.0 if scheme == "four_class" else settings.differentiation_weight
    return triage, triage + weight * differentiation


def shifted(scheme: str, logits: Logits, shifts: Tensor) -> Logits:
    """Return the logits that the loss sees, in float32: with ``shifts`` (B, 4) of ``logit_shifts`` added."""
    triage = logits.triage.float() + shifts[:, 0]
    if logits.differential is None:
        return Logits(triage, None)
    plain = logits.differential.float()
    differential = plain + shifts[:, 1:]
    if scheme == "four_class":  # its triage logit holds log sum exp of the malignant ones
        triage = triage + torch.logsumexp(differential, dim=1) - torch.logsumexp(plain, dim=1)
    return Logits(triage, differential)
