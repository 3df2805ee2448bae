"""The loss of each image of a batch, of the three schemes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fedderm.model.heads import Logits
from fedderm.pattern_losses import pattern_losses
from fedderm.training_settings import TrainingSettings


def image_losses(
    scheme: str,
    logits: Logits,
    classes: Tensor,
    shifts: Tensor,
    settings: TrainingSettings,
    patterns: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the triage loss and the whole loss of each image, (B,) in float32.

    ``classes`` (B,): 0..3; ``shifts`` (B, 4): of ``logit_shifts``; ``patterns`` (B, 7): labels for a
    model with pattern heads, NaN where there are none.
    """
    triage, loss = _scheme_losses(scheme, logits, classes, shifts, settings)
    if logits.patterns is None:
        return triage, loss
    return triage, loss + settings.pattern_weight * pattern_losses(logits.patterns, classes, patterns)


def _scheme_losses(
    scheme: str, logits: Logits, classes: Tensor, shifts: Tensor, settings: TrainingSettings
) -> tuple[Tensor, Tensor]:
    """Return the triage loss and the loss of the scheme's heads, (B,) each."""
    malignant = (classes > 0).float()
    triage_logit, differential, _ = shifted(scheme, logits, shifts)
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
