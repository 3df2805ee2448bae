"""The loss of each image of a batch, of the three schemes."""

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fedderm.model.heads import Logits
from fedderm.pattern_losses import pattern_losses
from fedderm.training_settings import LossSettings, TrainingSettings
from sites.diagnosis_schemes import NO_LABEL


class FurtherLabels(NamedTuple):
    """What heads beside the scheme's learn of a batch; None where no image of the training set has any."""

    patterns: Tensor | None = None
    """``(B, 7)`` 1, 0 or NaN where there is no label."""
    diagnoses: Tensor | None = None
    """``(B,)`` index among the K diagnoses, -1 where there is no label."""
    diagnosis_shifts: Tensor | None = None
    """``(B, K)`` what is added to an image's logits in the loss (fedderm.label_skew)."""

    def part(self, rows: slice | Tensor) -> Self:
        """Return the labels of a part of the batch, or at places in it."""
        return type(self)(*(None if one is None else one[rows] for one in self))


def image_losses(
    scheme: str,
    logits: Logits,
    classes: Tensor,
    terms: Tensor,
    settings: TrainingSettings,
    further: FurtherLabels = FurtherLabels(),
) -> tuple[Tensor, Tensor]:
    """Return the triage loss and the whole loss of each image, (B,) in float32.

    ``classes`` (B,): 0..3; ``terms`` (B, 6): of ``label_skew.loss_terms``; ``further``: labels of the model's
    further heads.
    """
    triage, loss = _scheme_losses(scheme, logits, classes, terms, settings)
    if logits.patterns is not None:
        found = pattern_losses(logits.patterns, classes, further.patterns)
        loss = loss + settings.pattern_weight * found
    if logits.diagnoses is not None and further.diagnoses is not None:
        found = _diagnosis_losses(
            logits.diagnoses, further.diagnoses, further.diagnosis_shifts, settings.loss
        )
        loss = loss + settings.diagnosis_weight * found
    return triage, loss


def _diagnosis_losses(
    logits: Tensor, labels: Tensor, shifts: Tensor | None, settings: LossSettings
) -> Tensor:
    """Return the loss (B,) of ``logits`` (B, K) in float32, 0 where an image has no label."""
    added = logits.float() if shifts is None else logits.float() + shifts
    # Neither loss nor gradient where the label is NO_LABEL: an image's class stands in for nothing here.
    found = F.cross_entropy(added, labels, reduction="none", ignore_index=NO_LABEL)
    return _curve(found, settings)


def _scheme_losses(
    scheme: str, logits: Logits, classes: Tensor, terms: Tensor, settings: TrainingSettings
) -> tuple[Tensor, Tensor]:
    """Return the triage loss and the loss of the scheme's heads, (B,) each."""
    malignant = (classes > 0).float()
    triage_logit, differential, *_ = shifted(scheme, logits, terms)
    plain = F.binary_cross_entropy_with_logits(triage_logit, malignant, reduction="none")
    first, last = terms[:, 4], terms[:, 5]
    triage = first * _curve(plain, settings.loss)
    if differential is None:
        return triage, triage
    # In four classes the softmax factorises: P(class) = P(malignant) * P(class | malignant).
    per_image = F.cross_entropy(differential, (classes - 1).clamp(min=0), reduction="none")
    # Not a product: a benign image stands in for a class here that its site may lack, whose loss is infinite.
    differentiation = torch.where(classes > 0, per_image, 0.0)
    if scheme == "four_class":
        return triage, last * _curve(plain + differentiation, settings.loss)
    return triage, triage + settings.differentiation_weight * last * _curve(differentiation, settings.loss)


def _curve(cross_entropy: Tensor, settings: LossSettings) -> Tensor:
    """Return the loss of images whose ``cross_entropy`` is -log p, (B,).

    focal: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Eq. 4. generalised: Zhang and
    Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", NeurIPS
    2018, Eq. 6.
    """
    if settings.kind == "focal":
        # Kept off zero, where the power's slope is infinite for gamma < 1.
        missed = (-torch.expm1(-cross_entropy)).clamp(min=1e-6)
        return missed**settings.focal_gamma * cross_entropy
    if settings.kind == "generalised":
        return -torch.expm1(-settings.generalised_q * cross_entropy) / settings.generalised_q
    return cross_entropy


def shifted(scheme: str, logits: Logits, terms: Tensor) -> Logits:
    """Return the logits that the loss sees, in float32: with the shifts of ``terms`` (B, 6) added."""
    triage = logits.triage.float() + terms[:, 0]
    if logits.differential is None:
        return Logits(triage, None)
    plain = logits.differential.float()
    differential = plain + terms[:, 1:4]
    if scheme == "four_class":  # its triage logit holds log sum exp of the malignant ones
        triage = triage + torch.logsumexp(differential, dim=1) - torch.logsumexp(plain, dim=1)
    return Logits(triage, differential)
