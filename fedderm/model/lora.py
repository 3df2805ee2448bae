"""Low-rank adapters: a frozen trunk's linear layers learn through the product of two thin matrices.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, Eq. 3: a layer gives
``W x + alpha / r * B A x``, with A (r, inputs) and B (outputs, r). B starts at zero, so that the first model
is the frozen one. Adapters and heads are all that is trained and sent.

Servers average A and B apart (FedIT: Zhang et al., ICASSP 2024). The mean of products is not the product of
means: ``sum p_k B_k A_k - (sum p_k B_k) (sum p_k A_k)`` is the covariance of the two over sites, which is
lost. Sun et al. ("Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024) and Guo et al.
("Selective Aggregation for Low-Rank Adaptation in Federated Learning", ICLR 2025) study what that costs.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.layers.attention import Attention, AttentionRope
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from fedderm.devices import seeded
from fedderm.model.cascade import Cascade
from fedderm.model.heads import Heads, Logits
from fedderm.settings import ModelSettings
from fedderm.training_settings import TrainingSettings
from fedderm.weights import Arrays

ATTENTION: Final = (Attention, AttentionRope, WindowAttention)
"""Self-attention of timm's vision and Swin transformers: there adapters go into its linear layers alone."""
_ADAPTERS: Final = "adapters."
_DRAWS: Final = 1  # apart from the draws of initial_model, whose stream is 0


class Adapter(nn.Module):
    """``scale * B A x`` for a linear layer or a convolution of one pixel; of rank r or the layer's own."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, alpha: float) -> None:
        super().__init__()
        outputs, inputs = layer.weight.shape[:2]
        rank_here = min(rank, inputs, outputs)
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.zeros(rank_here, inputs, device=layer.weight.device))
        self.B = nn.Parameter(torch.zeros(outputs, rank_here, device=layer.weight.device))

    def add(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return the layer's output with the adapter's added: a forward hook."""
        if isinstance(layer, nn.Conv2d):
            thin = F.conv2d(inputs[0], self.A[:, :, None, None], stride=layer.stride)
            return output + self.scale * F.conv2d(thin, self.B[:, :, None, None])
        return output + self.scale * F.linear(F.linear(inputs[0], self.A), self.B)


class Adapted(Heads):
    """What is trained of a cascade whose trunk is frozen: adapters in the trunk's layers, and the heads.

    The trunk is no part of this module's state or parameters, and stays in evaluation mode: its BatchNorm
    does not change. Like a whole cascade it takes images (B, 3, H, W) in 0..1.
    """

    def __init__(self, whole: Cascade, settings: ModelSettings, training: TrainingSettings) -> None:
        """Take over ``whole``, on its device. Raises ValueError where no layer of it can have an adapter."""
        super().__init__(settings, whole.triage.in_features)
        self._whole = (whole.eval(),)  # in a tuple torch does not see it
        for parameter in whole.trunks.parameters():
            parameter.requires_grad_(False)
        self.dropout = whole.dropout
        for name, head in whole.heads():
            setattr(self, name, head)
        self.adapters = nn.ModuleDict()
        for name, layer in adaptable(whole.trunks):
            adapter = Adapter(layer, training.lora_rank, training.lora_alpha)
            layer.register_forward_hook(adapter.add)
            self.adapters[name.replace(".", "/")] = adapter  # torch allows no dot
        if not self.adapters:
            raise ValueError(
                f"training.trunk: lora: backbone {settings.backbone} has no linear layer and no convolution "
                "of one pixel for an adapter; choose a transformer such as vit_b16, or trunk: trained"
            )

    def forward(self, inputs: Tensor, metadata: Tensor | None = None) -> Logits:
        """Return the logits of images ``inputs`` (B, 3, H, W) in 0..1 with ``metadata`` (B, M)."""
        logits: Logits = self._whole[0](inputs, metadata)
        return logits

    def features(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the triage and the differentiation head see of images ``inputs``, (B, F) each."""
        return self._whole[0].features(inputs)

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the adapters, which learn in the trunk's place."""
        return list(self.adapters.parameters())


def adaptable(trunks: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Yield the layers that get adapters, by name: of the first kind in this list that the trunk has.

    Linear layers of attention; linear layers; convolutions of one pixel over all channels. By the type of
    modules, whatever they are called. A subclass may use its weight in another way, such as standardised: an
    adapter could not be merged into it.
    """
    attention = [
        (f"{above}.{name}", layer)
        for above, module in trunks.named_modules()
        if isinstance(module, ATTENTION)
        for name, layer in module.named_modules()
        if type(layer) is nn.Linear
    ]
    linear = [(name, one) for name, one in trunks.named_modules() if type(one) is nn.Linear]
    pointwise = [
        (name, one)
        for name, one in trunks.named_modules()
        if type(one) is nn.Conv2d and one.kernel_size == (1, 1) and one.groups == 1
    ]
    yield from attention or linear or pointwise


def first_adapters(whole: Cascade, settings: ModelSettings, training: TrainingSettings, seed: int) -> Adapted:
    """Return the first model: B zero, A drawn from ``seed`` as Hu et al.'s code does, in 1 / sqrt(inputs)."""
    adapted = Adapted(whole, settings, training)
    _, generator = seeded([seed, _DRAWS])
    for module in adapted.adapters.values():
        nn.init.kaiming_uniform_(module.A, a=math.sqrt(5), generator=generator)  # type: ignore[arg-type]
    return adapted


def check_adapters(settings: ModelSettings, training: TrainingSettings) -> None:
    """Raise ValueError where no layer can have an adapter, or one would have no effect; only trying tells."""
    whole = Cascade(settings, pretrained=False)
    adapted = Adapted(whole, settings, training)
    for adapter in adapted.adapters.values():
        nn.init.ones_(adapter.B)  # type: ignore[arg-type]
    first, last = adapted.features(torch.zeros(1, 3, settings.image_size, settings.image_size))
    (first.sum() + last.sum()).backward()  # type: ignore[no-untyped-call]
    idle = [name for name, one in adapted.adapters.named_parameters() if one.grad is None]
    if idle:
        layer = idle[0].rpartition(".")[0].replace("/", ".")
        raise ValueError(
            f"training.trunk: lora: backbone {settings.backbone} reads the weights of its layer {layer} past "
            "the layer itself, so that an adapter there would do nothing; choose another, such as vit_b16, "
            "swin_s or convnext_s"
        )


def merged(trunk: Arrays, sent: Mapping[str, NDArray[Any]], training: TrainingSettings) -> Arrays:
    """Return a whole model: the trunk's weights with ``alpha / r * B A`` added, and the heads.

    ``sent``: the arrays of an ``Adapted``.
    """
    scale = training.lora_alpha / training.lora_rank
    whole = {**trunk, **{name: one for name, one in sent.items() if not name.startswith(_ADAPTERS)}}
    for name, thin in sent.items():
        key, _, matrix = name.removeprefix(_ADAPTERS).rpartition(".")
        if not name.startswith(_ADAPTERS) or matrix != "A":
            continue
        layer = f"trunks.{key.replace('/', '.')}.weight"
        weight = trunk[layer]
        product = sent[f"{_ADAPTERS}{key}.B"].astype(np.float64) @ thin
        whole[layer] = (weight + scale * product.reshape(weight.shape)).astype(weight.dtype)
    return whole
