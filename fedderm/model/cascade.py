"""One network for the three schemes: a triage logit and a differentiation of malignant lesions.

Shapes: B images, H x W pixels, F features of a trunk, D = 3 malignant classes (MEL, SCC, BCC).
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fedderm.model.backbones import build_backbone, check_size
from fedderm.settings import ModelSettings

MALIGNANT_CLASSES = 3


class Logits(NamedTuple):
    """``triage`` (B,): log odds of malignancy; ``differential`` (B, D): None in the binary scheme."""

    triage: Tensor
    differential: Tensor | None


class Cascade(nn.Module):
    """Triage (malignant or benign), then differentiation of what is malignant.

    ``binary`` has triage only; ``four_class`` one softmax over benign, MEL, SCC, BCC, whose triage logit is
    log P(malignant) / P(benign); ``cascade`` two heads on one trunk (``shared``) or on a trunk each
    (``separate``, the two networks of arXiv 2606.13135). Heads start at zero: an untrained net finds all its
    classes equally likely.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: ModelSettings, pretrained: bool = True) -> None:
        """Build the network; without ``pretrained`` its weights are random, to be loaded by the caller.

        Raises ValueError where name, image size or weights do not fit.
        """
        super().__init__()
        weights = settings.pretrained if pretrained else "none"
        count = 2 if settings.trunk == "separate" else 1
        backbones = [build_backbone(settings.backbone, settings.image_size, weights) for _ in range(count)]
        if pretrained:  # where a model is made, not where it is loaded
            check_size(backbones[0], settings.backbone, settings.image_size)
        self.scheme = settings.scheme
        self.trunks = nn.ModuleList(backbone.network for backbone in backbones)
        self.dropout = nn.Dropout(settings.dropout)
        self.triage = _zero_linear(backbones[0].features, 1)
        if settings.scheme != "binary":
            self.differentiation = _zero_linear(backbones[-1].features, MALIGNANT_CLASSES)
        for name, values in (("mean", backbones[0].mean), ("std", backbones[0].std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Logits:
        """Return the logits of ``images`` (B, 3, H, W) in 0..1; normalisation is the network's own matter."""
        first, last = self.features(images)
        # Heads stay in float32 under autocast: with bfloat16's eight bits many images would share a logit.
        with torch.autocast(images.device.type, enabled=False):
            return self._heads(self.dropout(first.float()), self.dropout(last.float()))

    def _heads(self, first: Tensor, last: Tensor) -> Logits:
        triage = cast("Tensor", self.triage(first)).squeeze(1)
        if self.scheme == "binary":
            return Logits(triage, None)
        differential = cast("Tensor", self.differentiation(last))
        if self.scheme == "four_class":
            # The triage head is the benign logit's negative: log sum exp(malignant) - benign.
            triage = torch.logsumexp(differential, dim=1) + triage
        return Logits(triage, differential)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the triage and the differentiation head see of ``images``, (B, F) each.

        On one trunk both are the same tensor.
        """
        normalised = (images - self.mean) / self.std
        first = self.trunks[0](normalised)
        return first, first if len(self.trunks) == 1 else self.trunks[1](normalised)

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the backbones."""
        return list(self.trunks.parameters())

    def heads(self) -> list[tuple[str, nn.Module]]:
        """Return the heads by name."""
        return [(name, child) for name, child in self.named_children() if isinstance(child, nn.Linear)]

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the heads."""
        trunk = {id(parameter) for parameter in self.trunk_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in trunk]


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
