"""The loss of BCC and of the seven dermoscopic patterns, where an image has labels (arXiv 2407.00104)."""

import torch
import torch.nn.functional as F
from torch import Tensor

_BCC = 3  # sites.diagnoses.CLASSES


def pattern_losses(logits: Tensor, classes: Tensor, labels: Tensor | None) -> Tensor:
    """Return each image's loss (B,) of ``logits`` (B, 8), in float32.

    Cross entropy of BCC, of which every image has a label, and the mean of that of the patterns with one:
    ``labels`` (B, 7) has NaN where there is none, None where no image has any. Without labels that mean is 0,
    and so is its gradient.
    """
    bcc = F.binary_cross_entropy_with_logits(
        logits[:, 0].float(), (classes == _BCC).float(), reduction="none"
    )
    if labels is None:
        return bcc
    known = ~labels.isnan()
    # Filled before the loss: NaN times zero is NaN, in the gradient too.
    each = F.binary_cross_entropy_with_logits(
        logits[:, 1:].float(), torch.where(known, labels, 0.0), reduction="none"
    )
    return bcc + (each * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)
