"""The heads: what they say of a trunk's features. Under a frozen trunk they are all that trains and travels.

Metadata are fused late: to what a head says of the features f, a second linear layer adds what it says of the
metadata m. As ``W f + V m + b = [W V] [f; m] + b`` this is one head that sees both side by side.

Shapes: B images, T trunks (1 shared, 2 separate), F features of a trunk, D = 3 malignant classes (MEL, SCC,
BCC), K diagnoses of ``model.diagnoses``, M numbers of ``sites.metadata.encoded``.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from fedderm.model.dropout import BatchDropout, PackedDropout
from fedderm.settings import ModelSettings
from sites.diagnoses import BCC_PATTERNS
from sites.diagnosis_schemes import NAMES
from sites.metadata import missing

MALIGNANT_CLASSES = 3
PATTERN_OUTPUTS = 1 + len(BCC_PATTERNS)
BESIDE = "_of_metadata"
"""Ends the name of a head's second layer, which sees metadata."""


class Logits(NamedTuple):
    """``triage`` (B,): log odds of malignancy; ``differential`` (B, D): None in the binary scheme;
    ``patterns`` (B, 8): log odds of BCC and of the seven patterns, None of a model without them;
    ``diagnoses`` (B, K): logits of a softmax, None of a model without that head."""

    triage: Tensor
    differential: Tensor | None
    patterns: Tensor | None = None
    diagnoses: Tensor | None = None

    def detached(self) -> Self:
        """Return the same numbers, of which no gradient flows back."""
        return type(self)._make(None if one is None else one.detach() for one in self)


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
        nothing_known = torch.from_numpy(missing(settings.metadata))
        self.register_buffer("nothing_known", nothing_known, persistent=False)
        if settings.metadata:
            for name, head in self.heads():
                if name != "patterns":  # which are seen in the image or not there, whoever the patient is
                    beside = _zero_linear(len(nothing_known), head.out_features, bias=False)
                    setattr(self, name + BESIDE, beside)

    nothing_known: Tensor

    def forward(self, inputs: Tensor, metadata: Tensor | None = None) -> Logits:
        """Return the logits of features ``inputs`` (B, T, F) with ``metadata`` (B, M); None: none known."""
        # Heads stay in float32 under autocast: with bfloat16's eight bits many images would share a logit.
        with torch.autocast(inputs.device.type, enabled=False):
            return self.logits(*self.features(self.dropout(inputs.float())), metadata)

    def in_stages(self, inputs: Tensor, metadata: Tensor | None = None) -> Iterator[Logits]:
        """Yield the logits of ``forward`` once for each network that shares nothing with the others.

        Those of the networks before it are detached: a loss of what is yielded last is that of ``forward``,
        and the gradients of all that is yielded add up to its own. Whoever goes back through each before
        taking the next never holds more than one network's activations. Random layers of the second network
        (stochastic depth) draw after the dropout before the first head, not before it as in ``forward``.
        """
        yield self(inputs, metadata)

    def logits(self, first: Tensor, last: Tensor, metadata: Tensor | None = None) -> Logits:
        """Return the logits of what the two heads see, (B, F) each, after dropout."""
        found = self.first_logits(first, metadata)
        return found if self.scheme == "binary" else self.with_differential(found, last, metadata)

    def first_logits(self, first: Tensor, metadata: Tensor | None) -> Logits:
        """Return what is said of the features (B, F) that the triage head sees: all but the differential."""
        triage = self._said("triage", first, metadata).squeeze(1)
        further = (self._further("patterns", first, metadata), self._further("diagnoses", first, metadata))
        return Logits(triage, None, *further)

    def with_differential(self, found: Logits, last: Tensor, metadata: Tensor | None) -> Logits:
        """Return the logits with the differential of the features ``last`` (B, F)."""
        differential = self._said("differentiation", last, metadata)
        if self.scheme != "four_class":
            return found._replace(differential=differential)
        # The triage head is the benign logit's negative: log sum exp(malignant) - benign.
        triage = torch.logsumexp(differential, dim=1) + found.triage
        return found._replace(triage=triage, differential=differential)

    def _further(self, name: str, inputs: Tensor, metadata: Tensor | None) -> Tensor | None:
        return self._said(name, inputs, metadata) if hasattr(self, name) else None

    def _said(self, name: str, inputs: Tensor, metadata: Tensor | None) -> Tensor:
        said = cast("Tensor", getattr(self, name)(inputs))
        beside = getattr(self, name + BESIDE, None)
        if beside is None:
            return said
        known = self.nothing_known.expand(inputs.shape[0], -1) if metadata is None else metadata.float()
        return said + cast("Tensor", beside(known))

    def features(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the triage and the differentiation head see of ``inputs``, (B, F) each."""
        return inputs[:, 0], inputs[:, -1]

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the backbones: none, the features come from elsewhere."""
        return []

    def heads(self) -> list[tuple[str, nn.Linear]]:
        """Return the heads by name, with those of metadata."""
        return [(name, child) for name, child in self.named_children() if isinstance(child, nn.Linear)]

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the heads."""
        return [parameter for _, head in self.heads() for parameter in head.parameters()]


def _zero_linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
