"""FedAvg with client-level differential privacy at the server: updates clipped, noise on their mean.

McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR 2018 (DP-FedAvg), by
Flower's own wrapper. It protects a site as a whole from the other sites and from whoever gets the model, not
from the server, which sees every update.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from strategies.arrays import view


class PrivateFedAvg(DifferentialPrivacyServerSideFixedClipping):
    """The mean of ``sites`` updates of norm ``clipping_norm`` at most, with noise on every value.

    The noise's standard deviation is ``noise_multiplier * clipping_norm / sites``. All sites take part in all
    rounds and weigh the same (fedderm.combinations sees to it): that is what its epsilon counts with.
    """

    extrapolates: ClassVar[bool] = True
    """A running variance must not get noise: it goes around."""

    def __init__(self, noise_multiplier: float, clipping_norm: float, sites: int, **settled: Any) -> None:
        super().__init__(FedAvg(**settled), noise_multiplier, clipping_norm, sites)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Clip, average and add noise; a site that moved nothing is an update like any other."""
        received = list(replies)
        for reply in received:
            for arrays in reply.content.array_records.values():
                self._give_it_a_norm(arrays)
        return super().aggregate_train(server_round, received)

    def _give_it_a_norm(self, arrays: ArrayRecord) -> None:
        """Move one value by next to nothing where none has moved: Flower divides by the update's norm."""
        if any((view(array) != view(self.current_arrays[name])).any() for name, array in arrays.items()):
            return
        name = next(iter(arrays))
        values = np.array(view(arrays[name]))
        values.flat[0] += max(1e-6 * self.clipping_norm, float(np.spacing(np.abs(values.flat[0]))))
        arrays[name] = Array(values)
