"""One network for the three schemes: a triage logit and a differentiation of malignant lesions.

Shapes: B images, H x W pixels, F features of a trunk.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedderm.model.backbones import build_backbone, check_size
from fedderm.model.dropout import BatchDropout
from fedderm.model.heads import Heads, Logits
from fedderm.settings import ModelSettings


class Cascade(Heads):
    """Triage (malignant or benign), then differentiation of what is malignant.

    ``binary`` has triage only; ``four_class`` one softmax over benign, MEL, SCC, BCC, whose triage logit is
    log P(malignant) / P(benign); ``cascade`` two heads on one trunk (``shared``) or on a trunk each
    (``separate``, the two networks of arXiv 2606.13135). It takes images (B, 3, H, W) in 0..1; normalisation
    is the network's own matter.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: ModelSettings, pretrained: bool = True) -> None:
        """Build the network; without ``pretrained`` its weights are random, to be loaded by the caller.

        Raises ValueError where name, image size or weights do not fit.
        """
        self.architecture = f"{settings.backbone} {settings.trunk} {settings.image_size}"
        """What the weights' names do not tell of how features are computed."""
        weights = settings.pretrained if pretrained else "none"
        count = 2 if settings.trunk == "separate" else 1
        backbones = [build_backbone(settings.backbone, settings.image_size, weights) for _ in range(count)]
        if pretrained:  # where a model is made, not where it is loaded
            check_size(backbones[0], settings.backbone, settings.image_size)
        super().__init__(settings, backbones[0].features)
        self.dropout = BatchDropout(settings.dropout)
        self.trunks = nn.ModuleList(backbone.network for backbone in backbones)
        for name, values in (("mean", backbones[0].mean), ("std", backbones[0].std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, inputs: Tensor, metadata: Tensor | None = None) -> Logits:
        """Return the logits of images ``inputs`` (B, 3, H, W) in 0..1 with ``metadata`` (B, M)."""
        first, last = self.features(inputs)
        with torch.autocast(inputs.device.type, enabled=False):  # as in the heads alone
            return self.logits(self.dropout(first.float()), self.dropout(last.float()), metadata)

    def in_stages(self, inputs: Tensor, metadata: Tensor | None = None) -> Iterator[Logits]:
        """Yield the triage's logits, then all of them (``Heads.in_stages``); on one trunk all at once."""
        if len(self.trunks) == 1:
            yield self(inputs, metadata)
            return
        normalised = (inputs - self.mean) / self.std
        first = self.trunks[0](normalised)
        with torch.autocast(inputs.device.type, enabled=False):
            found = self.first_logits(self.dropout(first.float()), metadata)
        yield found
        found = found.detached()
        last = self.trunks[1](normalised)
        with torch.autocast(inputs.device.type, enabled=False):
            found = self.with_differential(found, self.dropout(last.float()), metadata)
        yield found  # outside: a generator that an error leaves suspended must not put autocast back later

    def features(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the triage and the differentiation head see of images ``inputs``, (B, F) each.

        On one trunk both are the same tensor.
        """
        normalised = (inputs - self.mean) / self.std
        first = self.trunks[0](normalised)
        return first, first if len(self.trunks) == 1 else self.trunks[1](normalised)

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the backbones."""
        return list(self.trunks.parameters())
