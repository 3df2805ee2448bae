"""The heads: what they say of a trunk's features. Under a frozen trunk they are all that trains and travels.

Shapes: B images, T trunks (1 shared, 2 separate), F features of a trunk, D = 3 malignant classes (MEL, SCC,
BCC), K diagnoses of ``model.diagnoses``.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fedderm.model.dropout import BatchDropout, PackedDropout
from fedderm.settings import ModelSettings
from sites.diagnoses import BCC_PATTERNS
from sites.diagnosis_schemes import NAMES

MALIGNANT_CLASSES = 3
PATTERN_OUTPUTS = 1 + len(BCC_PATTERNS)


class Logits(NamedTuple):
    """``triage`` (B,): log odds of malignancy; ``differential`` (B, D): None in the binary scheme;
    ``patterns`` (B, 8): log odds of BCC and of the seven patterns, None of a model without them;
    ``diagnoses`` (B, K): logits of a softmax, None of a model without that head."""

    triage: Tensor
    differential: Tensor | None
    patterns: Tensor | None = None
    diagnoses: Tensor | None = None


class Heads(nn.Module):
    """The heads of the three schemes. They start at zero: untrained, all classes are equally likely."""

    def __init__(self, settings: ModelSettings, features: int) -> None:
        """Build the heads for trunks of ``features`` features."""
        super().__init__()
        self.scheme = settings.scheme
        self.dropout: BatchDropout = PackedDropout(settings.dropout)
        self.triage = _zero_linear(features, 1)
        if settings.scheme != "binary":
            self.differentiation = _zero_linear(features, MALIGNANT_CLASSES)
        if settings.patterns:
            self.patterns = _zero_linear(features, PATTERN_OUTPUTS)
        if settings.diagnoses != "none":
            self.diagnoses = _zero_linear(features, len(NAMES[settings.diagnoses]))

    def forward(self, inputs: Tensor) -> Logits:
        """Return the logits of features ``inputs`` (B, T, F)."""
        # Heads stay in float32 under autocast: with bfloat16's eight bits many images would share a logit.
        with torch.autocast(inputs.device.type, enabled=False):
            return self.logits(*self.features(self.dropout(inputs.float())))

    def logits(self, first: Tensor, last: Tensor) -> Logits:
        """Return the logits of what the two heads see, (B, F) each, after dropout."""
        triage = cast("Tensor", self.triage(first)).squeeze(1)
        further = (self._further("patterns", first), self._further("diagnoses", first))
        if self.scheme == "binary":
            return Logits(triage, None, *further)
        differential = cast("Tensor", self.differentiation(last))
        if self.scheme == "four_class":
            # The triage head is the benign logit's negative: log sum exp(malignant) - benign.
            triage = torch.logsumexp(differential, dim=1) + triage
        return Logits(triage, differential, *further)

    def _further(self, name: str, inputs: Tensor) -> Tensor | None:
        head = getattr(self, name, None)
        return None if head is None else cast("Tensor", head(inputs))

    def features(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the triage and the differentiation head see of ``inputs``, (B, F) each."""
        return inputs[:, 0], inputs[:, -1]

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the backbones: none, the features come from elsewhere."""
        return []

    def heads(self) -> list[tuple[str, nn.Module]]:
        """Return the heads by name."""
        return [(name, child) for name, child in self.named_children() if isinstance(child, nn.Linear)]

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the heads."""
        return [parameter for _, head in self.heads() for parameter in head.parameters()]


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
