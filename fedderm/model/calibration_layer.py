"""A calibration map as a layer: raw triage logits to calibrated ones, in operations that ONNX has."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from fedderm.evaluation.calibration_maps import CalibrationMap


class CalibrationLayer(nn.Module):
    """``CalibrationMap.logits`` of tensors."""

    where: Tensor
    values: Tensor

    def __init__(self, calibration: CalibrationMap) -> None:
        """Take a map; nothing of it is trained."""
        super().__init__()
        self.map = calibration
        where, p = np.array(calibration.knots, np.float32).reshape(-1, 2).T
        self.register_buffer("where", torch.tensor(where))
        self.register_buffer("values", torch.tensor(p))

    def forward(self, triage: Tensor) -> Tensor:
        """Return the calibrated logits of raw ones, (B,) each."""
        calibration = self.map
        if calibration.beta is not None:
            a, b, c = calibration.beta
            found = a * logsigmoid(triage) - b * logsigmoid(-triage) + c
        elif calibration.knots:
            # Straight between two knots, constant outside: each stretch adds what of it lies below.
            widths, rises = self.where.diff(), self.values.diff()
            covered = torch.minimum((triage[:, None] - self.where[:-1]).clamp(min=0), widths)
            p = self.values[0] + (covered / widths * rises).sum(dim=1)
            found = p.log() - (1 - p).log()  # torch.logit's node can bear the name of the export's output
        else:
            found = calibration.slope * triage + calibration.intercept
        return found + calibration.prior_shift
