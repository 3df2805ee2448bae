"""A trunk that is not trained: built where it is needed, told apart by its weights, and never sent."""

from collections.abc import Iterator

import numpy as np
import timm
from torch import Tensor

from fedderm.devices import seeded
from fedderm.model.cascade import Cascade
from fedderm.model.heads import Heads, Logits
from fedderm.model.state import to_arrays
from fedderm.settings import ModelSettings
from fedderm.weights import FrozenTrunk, digest


class OnFrozenTrunk(Heads):
    """What is trained of a cascade whose trunk, or most of it, stays as it was: the heads, and what else a
    subclass adds.

    Like the whole cascade it takes images (B, 3, H, W) in 0..1.
    """

    def __init__(self, whole: Cascade, settings: ModelSettings) -> None:
        """Take over ``whole``, on its device; its trunk is frozen and in evaluation mode."""
        super().__init__(settings, whole.triage.in_features)
        self._whole = (whole.eval(),)  # in a tuple torch does not see it
        for parameter in whole.trunks.parameters():
            parameter.requires_grad_(False)
        self.dropout = whole.dropout
        for name, head in whole.heads():
            setattr(self, name, head)

    def forward(self, inputs: Tensor, metadata: Tensor | None = None) -> Logits:
        """Return the logits of images ``inputs`` (B, 3, H, W) in 0..1 with ``metadata`` (B, M)."""
        logits: Logits = self._whole[0](inputs, metadata)
        return logits

    def in_stages(self, inputs: Tensor, metadata: Tensor | None = None) -> Iterator[Logits]:
        """Yield the logits of one network after the other, as the whole cascade does."""
        yield from self._whole[0].in_stages(inputs, metadata)

    def features(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the triage and the differentiation head see of images ``inputs``, (B, F) each."""
        return self._whole[0].features(inputs)


def initial_model(settings: ModelSettings, seed: int) -> Cascade:
    """Return the first global model: pretrained trunks where the settings say so, heads at zero.

    Without pretrained weights it follows from ``seed``, so that a site builds the same as the server.
    """
    seeded([seed, 0])
    return Cascade(settings)


def frozen_trunk(model: Cascade) -> FrozenTrunk:
    """Return the model's trunk.

    The digest covers what is no part of its state too: normalisation, and architecture, image size and timm's
    version, for two backbones can hold the same weights under the same names and compute different things.
    """
    arrays = {name: array for name, array in to_arrays(model).items() if is_trunk(name)}
    normalisation = {name: getattr(model, name).cpu().numpy() for name in ("mean", "std")}
    said = f"{model.architecture} timm {timm.__version__}".encode()
    return FrozenTrunk(
        arrays, digest({**arrays, **normalisation, "architecture": np.frombuffer(said, np.uint8)})
    )


def built_trunk(settings: ModelSettings, seed: int, wanted: str) -> Cascade:
    """Return the model whose trunk has the digest ``wanted``; raises ValueError where it is another here."""
    model = initial_model(settings, seed)
    own = frozen_trunk(model).digest
    if own != wanted:
        raise ValueError(
            f"the frozen trunk {settings.backbone} (pretrained: {settings.pretrained}) has other weights "
            f"here, {own}, than at the server, {wanted}; install the server's versions of fedderm, "
            "timm, torch and the weights' package, or give both the same file of weights"
        )
    return model


def is_trunk(name: str) -> bool:
    """Return whether an array of the whole model belongs to a trunk: to the module ``trunks``."""
    return name.partition(".")[0] == "trunks"
