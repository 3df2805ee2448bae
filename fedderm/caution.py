"""When a model should rather not decide about an image: its views disagree, or the image is foreign to it.

Spread over test-time views: Ayhan and Berens, "Test-time Data Augmentation for Estimation of Heteroscedastic
Aleatoric Uncertainty in Deep Neural Networks", MIDL 2018. Abstaining is a hint beside the decision: neither
the probability nor the decision is changed by it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedderm.inference import Floats

DISAGREE = "views disagree"
FOREIGN = "unlike the training sites' images"


@dataclass(frozen=True)
class Caution:
    """What speaks against relying on one decision."""

    spread: float | None
    """Standard deviation of the calibrated probability over the views; None of a single view."""
    agreement: float | None
    """Share of the views that decide as their mean does; None of a single view."""
    distance: float | None
    """From what training sites' images look like, over the level: above 1 is foreign; None: no reference."""
    reasons: tuple[str, ...]
    """Why the model abstains; empty where it does not."""


def caution(
    probabilities: Floats,
    malignant: npt.NDArray[np.bool_],
    decision: bool,
    distance: float | None,
    least: float,
) -> Caution:
    """Return the caution for a ``decision`` of which the views say ``probabilities`` and ``malignant`` (V,).

    The model abstains where fewer than a share ``least`` of the views decide as their mean, and beyond the
    level.
    """
    several = len(probabilities) > 1
    agreement = float(np.mean(malignant == decision))
    reasons = (
        *([DISAGREE] if several and agreement < least else []),
        *([FOREIGN] if distance is not None and distance > 1 else []),
    )
    return Caution(
        round(float(probabilities.std(ddof=1)), 6) if several else None,
        agreement if several else None,
        None if distance is None else round(distance, 4),
        reasons,
    )
