"""Where in an image a network's answer comes from, as heat maps: Grad-CAM, and attention rollout.

Grad-CAM: Selvaraju et al., ICCV 2017, in pytorch-grad-cam's implementation, on the last feature map before
pooling; in a ViT on the tokens before the last block, where patches still reach the class token, put back
into their grid. Attention rollout: Abnar and Zuidema, ACL 2020, Eq. 1, heads averaged; it knows no class.
Needs the extra ``explain``.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedderm.inference import mirror_images
from fedderm.model.cascade import Cascade
from sites.diagnoses import CLASSES

Heat = npt.NDArray[np.float32]
"""``(S, S)`` in 0..1, the strongest place 1; all 0 where nothing speaks for the answer."""

GRAD_CAM: Final = "Grad-CAM"
ROLLOUT: Final = "attention rollout"
MALIGNANT: Final = "malignant"
_NEEDED: Final = {"pytorch_grad_cam": "grad-cam"}


@dataclass(frozen=True)
class HeatMap:
    """One map of one image."""

    about: str
    """malignant, or a malignant class; empty for attention rollout of a trunk that both heads share."""
    method: str
    cells: tuple[int, int]
    """Rows and columns that the network itself tells apart; between them the map is interpolated."""
    heat: Heat


def require_explain() -> None:
    """Raise ValueError where the extra is missing."""
    if missing := [package for name, package in _NEEDED.items() if find_spec(name) is None]:
        raise ValueError(f"explain needs {', '.join(missing)}: pip install 'fedderm[explain]'")


def heat_maps(model: Cascade, inputs: Tensor, views: int, malignant_class: str | None) -> list[HeatMap]:
    """Return the maps of one image ``inputs`` (1, 3, S, S) in 0..1.

    Grad-CAM of the triage logit, as evidence for malignancy, and of ``malignant_class`` (MEL, SCC or BCC)
    where one is given; attention rollout where the trunk attends from all patches to all. Each is the mean
    over ``views`` mirror images, turned back. The model's parameters ask for no gradient afterwards.
    """
    model.eval().requires_grad_(False)
    about = [MALIGNANT] if malignant_class is None else [MALIGNANT, malignant_class]
    found = [_about(model, inputs, views, one) for one in about]
    trunks = [(model.trunks[0], "" if len(model.trunks) == 1 else MALIGNANT)]
    if len(model.trunks) > 1 and malignant_class is not None:
        trunks.append((model.trunks[-1], malignant_class))
    for trunk, name in trunks:
        rolled = _rolled(trunk, (inputs - model.mean) / model.std, views)
        if rolled is not None:
            found.append(HeatMap(name, ROLLOUT, *rolled))
    return found


class _Answers(nn.Module):
    """The network with one row of logits an image: malignant, MEL, SCC, BCC."""

    def __init__(self, model: Cascade) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.model(inputs)
        triage: Tensor = found.triage[:, None]
        return triage if found.differential is None else torch.cat([triage, found.differential], dim=1)


def _about(model: Cascade, inputs: Tensor, views: int, about: str) -> HeatMap:
    column = 0 if about == MALIGNANT else CLASSES.index(about)
    trunk = model.trunks[0 if about == MALIGNANT else -1]
    return HeatMap(about, GRAD_CAM, *grad_cam(_Answers(model), column, trunk, inputs, views))


def grad_cam(
    answers: nn.Module, column: int, trunk: nn.Module, inputs: Tensor, views: int
) -> tuple[tuple[int, int], Heat]:
    """Return the rows and columns that ``trunk`` tells apart, and Grad-CAM of a logit of one image.

    ``answers`` gives logits (B, K) of images ``inputs`` (1, 3, S, S) in 0..1 through ``trunk``, and is asked
    about ``column``. Its parameters must ask for no gradient, which would be half of the work.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layer, cells, reshape = _place(trunk, inputs)
    cam = GradCAM(model=answers, target_layers=[layer], reshape_transform=reshape)
    batch = torch.cat(list(mirror_images(inputs, views))).requires_grad_()
    try:
        maps = cam(input_tensor=batch, targets=[ClassifierOutputTarget(column)] * len(batch))
    finally:  # not as a context manager, which would swallow an IndexError
        cam.activations_and_grads.release()
    return cells, _turned_back(torch.from_numpy(maps))


Reshape = Callable[[Tensor], Tensor]


def _place(trunk: nn.Module, inputs: Tensor) -> tuple[nn.Module, tuple[int, int], Reshape | None]:
    """Return where Grad-CAM looks, the rows and columns there, and how its output becomes (B, C, H, W).

    It is the module that ends last of those whose output still has places: (1, C, H, W) or (1, H, W, C) of
    more than one, or (1, N, C) tokens.
    """
    layer, output = _last_with_places(trunk, inputs)
    if output.ndim == 4:
        if getattr(trunk, "output_fmt", "NCHW") == "NHWC":
            return layer, (output.shape[1], output.shape[2]), lambda found: found.permute(0, 3, 1, 2)
        return layer, (output.shape[2], output.shape[3]), None
    blocks: Any = getattr(trunk, "blocks", None)
    rows, columns = _grid(trunk)
    prefix = output.shape[1] - rows * columns
    if blocks is None or not hasattr(blocks[-1], "norm1") or prefix < 0:
        raise ValueError(
            f"explain: where the places of {type(trunk).__name__} lie is not known; use a CNN or ViT"
        )

    def to_grid(tokens: Tensor) -> Tensor:
        return tokens[:, prefix:].reshape(len(tokens), rows, columns, -1).permute(0, 3, 1, 2)

    return blocks[-1].norm1, (rows, columns), to_grid


def _last_with_places(trunk: nn.Module, inputs: Tensor) -> tuple[nn.Module, Tensor]:
    ended: list[tuple[nn.Module, Tensor]] = []
    patches = math.prod(_grid(trunk))

    def note(module: nn.Module, _: object, output: object) -> None:
        """Keep the output of a module that still has places: a map, or tokens."""
        if not isinstance(output, Tensor):
            return
        tokens = output.ndim == 3 and output.shape[1] >= max(patches, 2)
        if tokens or (output.ndim == 4 and 1 not in output.shape[1:]):
            ended.append((module, output))

    handles = [module.register_forward_hook(note) for module in trunk.modules()]
    try:
        with torch.no_grad():
            trunk(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not ended:
        raise ValueError("explain: this network has no feature map with more than one place")
    return ended[-1]


def _grid(trunk: nn.Module) -> tuple[int, int]:
    patches: Any = getattr(trunk, "patch_embed", None)
    rows, columns = getattr(patches, "grid_size", None) or (0, 0)
    return int(rows), int(columns)


def _rolled(trunk: nn.Module, normalised: Tensor, views: int) -> tuple[tuple[int, int], Heat] | None:
    """Return the grid and the rollout of a trunk's views; None where it does not attend globally."""
    rows, columns = _grid(trunk)
    found = []
    for view in mirror_images(normalised, views):
        with _attention(trunk) as layers, torch.inference_mode():
            trunk(view)
        shapes = {tuple(one.shape) for one in layers}
        if len(shapes) != 1 or layers[0].shape[0] != 1 or layers[0].shape[-1] < max(rows * columns, 2):
            return None  # a CNN, or windows
        found.append(rollout([one[0] for one in layers]))
    prefix = found[0].shape[0] - rows * columns
    pooled = getattr(trunk, "global_pool", "token") != "token"
    maps = [(one[prefix:].mean(dim=0) if pooled else one[0])[prefix:].view(rows, columns) for one in found]
    size = list(normalised.shape[2:])
    larger = nn.functional.interpolate(torch.stack(maps)[:, None], size=size, mode="bilinear")
    return (rows, columns), _turned_back(larger[:, 0])


def rollout(layers: list[Tensor]) -> Tensor:
    """Return ``(N, N)``: how much of each of N tokens ends up in each, through layers of attention (H, N, N).

    The product of half the mean attention and half the identity, which stands for the residual connection;
    rows add up to 1.
    """
    product = torch.eye(layers[0].shape[-1], dtype=torch.float64)
    for attention in layers:
        mixed = attention.double().mean(dim=0)
        product = (mixed + torch.eye(len(mixed), dtype=torch.float64)) / 2 @ product
    return product


@contextmanager
def _attention(trunk: nn.Module) -> Iterator[list[Tensor]]:
    """Collect each layer's attention (B, H, N, N) while the context lasts, without fused kernels."""
    seen: list[Tensor] = []
    attending: list[Any] = [
        one for one in trunk.modules() if hasattr(one, "attn_drop") and hasattr(one, "fused_attn")
    ]
    before = [one.fused_attn for one in attending]
    handles = [
        one.attn_drop.register_forward_hook(lambda _, __, output: seen.append(output)) for one in attending
    ]
    try:
        for one in attending:
            one.fused_attn = False
        yield seen
    finally:
        for one, fused in zip(attending, before, strict=True):
            one.fused_attn = fused
        for handle in handles:
            handle.remove()


def _turned_back(maps: Tensor) -> Heat:
    """Return the mean of the mirror images' maps (V, S, S), each mirrored back, from 0 to 1."""
    # Each mirroring is its own inverse.
    back = [list(mirror_images(one[None, None], place + 1))[-1] for place, one in enumerate(maps)]
    mean: Heat = torch.cat(back).mean(dim=0)[0].numpy().astype(np.float32)
    mean = mean - mean.min()
    highest = float(mean.max())
    return mean / highest if highest > 0 else mean
