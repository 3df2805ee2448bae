"""Backbones by name: what can be said of a model's settings without torch, whose import takes seconds."""

import difflib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fedderm.settings import ModelSettings

SHORT_NAMES: Final = {
    "vit_b16": "vit_base_patch16_224",
    "swin_s": "swin_small_patch4_window7_224",
    "convnext_s": "convnext_small",
    "efficientnetv2_s": "tf_efficientnetv2_s",
    "mobilenet_v2": "mobilenetv2_100",
}
"""The four backbones of the cascade paper (arXiv 2606.13135), and that of multitask BCC (2407.00104)."""

FUSED: Final = "+"
"""Between backbones that are fused late, such as convnext_tiny+tf_efficientnet_b0."""

PACKAGED: Final = "tf_efficientnet_lite0"
"""The backbone whose ImageNet weights ship in a Python package: transfer learning without a hub."""


def branches_of(backbone: str, pretrained: str) -> list[tuple[str, str]]:
    """Return each backbone that ``a+b`` fuses with its weights, which are one word for all, or ``x+y``.

    A single backbone is one branch, and its weights are what they say, a file with a plus in its path too.
    Raises ValueError where a name is empty or there are weights for another number of backbones.
    """
    names = backbone.split(FUSED)
    if len(names) == 1:
        return [(backbone, pretrained)]
    if not all(names):
        raise ValueError(f"model.backbone: {backbone} lacks a name beside its plus; write a+b, or one name")
    weights = pretrained.split(FUSED)
    if len(weights) == 1:
        weights *= len(names)
    if len(weights) != len(names):
        raise ValueError(
            f"model.pretrained: {pretrained} is of {len(weights)} backbones and {backbone} fuses "
            f"{len(names)}; write one word for all, or one each, such as hub+none"
        )
    return list(zip(names, weights, strict=True))


def check_names(settings: ModelSettings) -> None:
    """Raise ValueError for a backbone or weights that cannot exist, before anything is started.

    What passes may still be refused when the network is built, such as a tag that a backbone lacks.
    """
    for name, pretrained in branches_of(settings.backbone, settings.pretrained):
        _check_name(name, pretrained)


def _check_name(name: str, pretrained: str) -> None:
    architecture = SHORT_NAMES.get(name, name).partition(".")[0]
    source = _timm_source()
    # A model's function, or an old name that timm still takes, which stands as a key in a table.
    named = rf"^@register_model\s+def {re.escape(architecture)}\(|['\"]{re.escape(architecture)}['\"]:"
    if source and not re.search(named, source, re.M):
        raise unknown_backbone(name, re.findall(r"^@register_model\s+def (\w+)", source, re.M))
    if pretrained == "package":
        check_packaged(architecture)
    elif pretrained not in ("none", "hub"):
        check_file(name, Path(pretrained))


def unknown_backbone(name: str, known: list[str]) -> ValueError:
    """Return the error that names the nearest of the ``known`` models."""
    near = difflib.get_close_matches(name, [*SHORT_NAMES, *known], n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else "; `timm.list_models()` lists them"
    return ValueError(f"model.backbone: timm has no model {name}{hint}")


def check_packaged(architecture: str) -> None:
    """Raise ValueError where no package holds weights of this backbone."""
    if architecture != PACKAGED:
        raise ValueError(
            f"model.pretrained: no package holds weights for {architecture}; expected backbone {PACKAGED}, "
            "or use pretrained: hub, none or a file"
        )


def check_file(name: str, path: Path) -> None:
    """Raise ValueError where there is no such file of weights."""
    if not path.is_file():
        raise ValueError(
            f"model.pretrained: {path} is no file; expected none, hub, package or a file of {name}'s weights"
        )


@cache
def _timm_source() -> str:
    """Return the source of timm's models, read without importing it."""
    timm = find_spec("timm")
    folders = timm.submodule_search_locations if timm is not None else None
    files = sorted(Path(next(iter(folders)), "models").glob("*.py")) if folders else []
    return "\n".join(file.read_text(encoding="utf-8") for file in files)
