"""Fine-tuning depth: the last stages of a trunk learn, the earlier ones stay as they were.

What a stage is says timm: ``group_matcher`` of every model, by which its layer-wise learning rates go. The
gradient ends where the first stage that learns begins, and only what learns is sent.
"""

from collections.abc import Iterator
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from fedderm.model.cascade import Cascade
from fedderm.model.frozen import OnFrozenTrunk
from fedderm.model.fusion import LateFusion
from fedderm.settings import ModelSettings
from fedderm.training_settings import TrainingSettings


class LastStages(OnFrozenTrunk):
    """What is trained of a cascade whose early stages are frozen: the last stages of its trunk and the heads.

    Its state holds these parameters alone, under the names they have in the whole model. The whole trunk
    stays in evaluation mode: its BatchNorm normalises with the statistics it came with, in the stages that
    learn, too, and stochastic depth is off.
    """

    def __init__(self, whole: Cascade, settings: ModelSettings, training: TrainingSettings) -> None:
        """Take over ``whole``, on its device.

        Raises ValueError where a backbone of it has no more than ``training.last_stages`` stages.
        """
        super().__init__(whole, settings)
        self.trunks = whole.trunks
        trained = set(last_stages(whole.trunks, settings.backbone, training.last_stages))
        for name, parameter in whole.trunks.named_parameters():
            parameter.requires_grad_(name in trained)
        self._frozen = [f"trunks.{name}" for name in self.trunks.state_dict() if name not in trained]
        self.register_state_dict_post_hook(_leave_out)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> "LastStages":
        """Set the mode of dropout before the heads; the trunk's stays."""
        super().train(mode)
        self.trunks.eval()
        return self

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the stages that learn."""
        return [one for one in self.trunks.parameters() if one.requires_grad]


def _leave_out(model: LastStages, state: dict[str, Any], prefix: str, metadata: object) -> None:
    """Take what is frozen out of the model's state."""
    del metadata
    for name in model._frozen:
        del state[prefix + name]


def last_stages(trunks: nn.Module, backbone: str, count: int) -> Iterator[str]:
    """Yield the names of the parameters in the last ``count`` stages of each of the ``trunks``' backbones.

    Raises ValueError where one has no more than that: nothing would be frozen.
    """
    for prefix, network in _backbones(trunks):
        try:
            stages = stages_of(network)
        except (AttributeError, AssertionError) as error:
            raise ValueError(
                f"training.trunk: last_stages: timm does not say what the stages of backbone {backbone} are; "
                "choose another backbone, or trunk: trained, lora or frozen"
            ) from error
        if count >= len(stages):
            raise ValueError(
                f"training.last_stages: {count} of the {len(stages)} stages of backbone {backbone} leaves "
                f"none frozen; give 1 to {len(stages) - 1}, or set trunk: trained for all of them"
            )
        yield from (f"{prefix}{name}" for stage in stages[-count:] for name in stage)


def stages_of(network: nn.Module) -> list[list[str]]:
    """Return the parameters of a timm backbone without classifier by stage, first to last.

    A norm that timm counts as a stage of its own, such as a transformer's last, belongs to the stage before.
    """
    shapes = {name: one.ndim for name, one in network.named_parameters()}
    matcher = network.group_matcher(coarse=True)  # type: ignore[operator]
    found: list[list[str]] = []
    for names in group_parameters(network, matcher).values():
        if found and all(shapes[name] <= 1 for name in names):
            found[-1].extend(names)
        else:
            found.append(list(names))
    return found


def check_stages(settings: ModelSettings, training: TrainingSettings) -> None:
    """Raise ValueError where the backbone has not so many stages; only building it tells."""
    with torch.device("meta"):  # names and shapes, without the seconds that weights take
        LastStages(Cascade(settings, pretrained=False), settings, training)


def _backbones(trunks: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the timm backbones of ``trunks``, with what stands before their parameters' names."""
    for index, trunk in trunks.named_children():
        if isinstance(trunk, LateFusion):
            for branch, network in trunk.branches.named_children():
                yield f"{index}.branches.{branch}.", network
        else:
            yield f"{index}.", trunk
