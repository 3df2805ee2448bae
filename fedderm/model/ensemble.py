"""Several models as one: the mean of their calibrated probabilities, or the share of their votes.

Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles", NeurIPS 2017, section 2.4: a uniformly weighted mixture, whose probability is the mean of the
members' probabilities. They are calibrated first, each by its own federation's map, so that a member with
larger logits does not outweigh the others; and probabilities rather than log odds, which one member that is
certain would decide alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.documents import OperatingPoint
from fedderm.model.calibration_layer import CalibrationLayer
from fedderm.model.cascade import Cascade
from fedderm.model.heads import Heads, Logits
from fedderm.settings import ModelSettings

Combine = Literal["average", "vote"]

VOTE_SCALE: Final = 8.0
"""Triage logit of a unanimous vote less that of the opposite one (a choice; calibration is fitted after)."""
_SMALLEST: Final = 1e-6
"""Keeps the logarithms of a mean of zeros or ones finite."""


@dataclass(frozen=True)
class Member:
    """A model and the operating point of its own federation."""

    model: Cascade
    point: OperatingPoint


class Ensemble(Heads):
    """Members that see the same pixels, as one model with a triage logit and a differential.

    ``average``: the log odds of the mean calibrated probability. ``vote``: 8 times the share of members that
    call the image malignant at their own thresholds, less 4; over mirrored views each member votes on each.
    The differential is the log of the mean softmax, and so are the diagnoses. Members with one and the same
    trunk share it.
    """

    def __init__(self, members: Sequence[Member], settings: ModelSettings, combine: Combine) -> None:
        """Take the members; ``settings`` say which pixels all of them see and what the whole is called."""
        models = [one.model for one in members]
        # Its own triage head is only shown what the members see: scores and features come from one pass.
        super().__init__(settings, sum(trunk.triage.in_features for trunk in _share_trunks(models)))
        self.members = models
        self.networks = torch.nn.ModuleList(models)  # so that they move and switch to evaluation together
        self.maps = torch.nn.ModuleList(CalibrationLayer(CalibrationMap.of(one.point)) for one in members)
        self.thresholds = [one.point.threshold for one in members]
        self.combine = combine

    def forward(self, inputs: Tensor, metadata: Tensor | None = None) -> Logits:
        """Return the logits of images ``inputs`` (B, 3, H, W) in 0..1 with ``metadata`` (B, M)."""
        seen: dict[int, tuple[Tensor, Tensor]] = {}
        said: list[Logits] = []
        for member in self.members:
            trunk = id(member.trunks)
            if trunk not in seen:
                first, last = member.features(inputs)
                seen[trunk] = first.float(), last.float()
            with torch.autocast(inputs.device.type, enabled=False):
                said.append(member.logits(*seen[trunk], metadata))
        self.triage(torch.cat([first for first, _ in seen.values()], dim=1))
        return Logits(
            self._triage([one.triage for one in said]),
            _mean_shares([one.differential for one in said]),
            diagnoses=_mean_shares([one.diagnoses for one in said]),
        )

    def _triage(self, said: list[Tensor]) -> Tensor:
        if self.combine == "vote":
            votes = [(one >= at).float() for one, at in zip(said, self.thresholds, strict=True)]
            return VOTE_SCALE * (torch.stack(votes).mean(dim=0) - 0.5)
        told = [torch.sigmoid(map_(one)) for map_, one in zip(self.maps, said, strict=True)]
        mean = torch.stack(told).mean(dim=0).clamp(_SMALLEST, 1 - _SMALLEST)
        return mean.log() - (1 - mean).log()  # as in CalibrationLayer


def _mean_shares(said: list[Tensor | None]) -> Tensor | None:
    """Return the log of the mean softmax of the members' logits (B, K); None where they have no such head."""
    shares = [torch.softmax(one, 1) for one in said if one is not None]
    return torch.stack(shares).mean(dim=0).clamp(min=_SMALLEST).log() if shares else None


def _share_trunks(models: Sequence[Cascade]) -> list[Cascade]:
    """Let models with equal trunks have one, and return the first of each kind.

    Heads trained on one frozen trunk, seed by seed, then cost one pass.
    """
    kinds: list[Cascade] = []
    for model in models:
        same = next((one for one in kinds if _equal(one, model)), None)
        if same is None:
            kinds.append(model)
        else:
            model.trunks = same.trunks
    return kinds


def _equal(one: Cascade, other: Cascade) -> bool:
    first, second = one.trunks.state_dict(), other.trunks.state_dict()
    return (
        one.architecture == other.architecture
        and first.keys() == second.keys()
        and all(torch.equal(first[name], second[name]) for name in first)
    )
