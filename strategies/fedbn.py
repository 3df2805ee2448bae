"""FedBN: each site keeps its own BatchNorm layers.

Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021: sites
that differ in what their images look like, such as hospitals with different devices, normalise with their
own statistics, scales and shifts. All else is FedAvg.

The layers are sent all the same: their mean is the global model's, for sites that never trained. A site
trains and judges its *personal* model with its own. A held-out site takes the mean's scales and shifts and,
with ``held_out = "reestimated"``, running statistics of its own unlabelled calibration images (Li et al.,
"Revisiting Batch Normalization for Practical Domain Adaptation", 2017); with ``"mean"`` the mean's.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from strategies.fedavg import StreamingFedAvg
from strategies.site_side import Keeps, KeepsOwn, SiteSide

REESTIMATED, MEAN = "reestimated", "mean"


class OwnNorms(KeepsOwn):
    """The site's part: it keeps its BatchNorm layers."""

    keeps: ClassVar[Keeps | None] = "norms"

    def reestimates(self, parameters: Mapping[str, Any]) -> bool:
        """Return whether a held-out site takes statistics of its own images."""
        return bool(parameters.get("held_out", REESTIMATED) == REESTIMATED)


class FedBN(StreamingFedAvg):
    """The server's part: FedAvg. ``held_out`` says what a site that never trained normalises with."""

    site_side: ClassVar[type[SiteSide]] = OwnNorms

    def __init__(self, *, held_out: str = REESTIMATED, **parameters: Any) -> None:
        """Raise ValueError for a ``held_out`` that is neither reestimated nor mean."""
        if held_out not in (REESTIMATED, MEAN):
            raise ValueError(f"held_out must be {REESTIMATED} or {MEAN}, not {held_out}")
        super().__init__(**parameters)
