"""Heads in closed form before the first round: ridge regression on the frozen trunk's features, from sums
that sites send.

Fanì et al., "Accelerating Heterogeneous Federated Learning with Closed-form Classifiers" (Fed3R), ICML 2024:
the normal equations add up over sites, so one exchange gives exactly the solution on the pooled features,
however unlike the sites are. Fine-tuning then starts from heads that fit the trunk, which also costs less of
what the trunk knows (Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", ICLR 2022).

What a site sends is the second moment of its features and each class's sum: with fewer images than features
it spans them, and a class of one image shows that image's features. A site refuses where a class has fewer
images than its ``min_cell``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from fedderm.weights import Arrays

Floats = npt.NDArray[np.float64]

SLOPE = 4.0
"""Logit per unit of a regressed probability: the logit's slope at one half."""


@dataclass(frozen=True)
class Moments:
    """Weighted sums over images: ``gram`` (F + 1, F + 1) of features and a constant, ``targets`` (F + 1,
    K)."""

    gram: Floats
    targets: Floats

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of images."""
        return Moments(self.gram + other.gram, self.targets + other.targets)

    def solve(self, penalty: float) -> Floats:
        """Return the coefficients (F + 1, K) of ridge regression; the constant is not penalised.

        ``penalty`` is relative to the features' mean square. Raises ValueError for moments of no image.
        """
        level = float(np.trace(self.gram[:-1, :-1])) / (len(self.gram) - 1)
        if not level > 0:
            raise ValueError("the head start has no features to fit: no site sent any")
        ridge = np.full(len(self.gram), penalty * level)
        ridge[-1] = 0.0
        with threadpool_limits(limits=1, user_api="blas"):
            return np.asarray(np.linalg.solve(self.gram + np.diag(ridge), self.targets))


def moments(features: Floats, targets: Floats, weights: Floats) -> Moments:
    """Return the moments of ``features`` (n, F) with ``targets`` (n, K) and ``weights`` (n,)."""
    extended = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    weighted = extended * weights[:, None]
    # One thread: the last bit would otherwise depend on how a worker was started.
    with threadpool_limits(limits=1, user_api="blas"):
        return Moments(weighted.T @ extended, weighted.T @ targets)


def total(parts: Sequence[Moments]) -> Moments:
    """Return the sum, in the order of the parts."""
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    return found


def triage_head(of_all: Moments, penalty: float) -> Arrays:
    """Return the triage head of the binary and cascade schemes; ``of_all`` has one target per class, benign
    first.

    A regressed probability p of being benign becomes the logit ``SLOPE * (1/2 - p)``.
    """
    benign = of_all.solve(penalty)[:, 0]
    return _linear("triage", -SLOPE * benign[:, None], 0.5 * SLOPE)


def differentiation_head(of_malignant: Moments, penalty: float) -> Arrays:
    """Return the differentiation head; ``of_malignant`` has malignant images and classes only."""
    return _linear("differentiation", SLOPE * of_malignant.solve(penalty), 0.0)


def four_class_heads(of_all: Moments, penalty: float) -> Arrays:
    """Return both heads of the four-class scheme, whose triage head is the negative benign logit."""
    solved = SLOPE * of_all.solve(penalty)
    return {**_linear("triage", -solved[:, :1], 0.0), **_linear("differentiation", solved[:, 1:], 0.0)}


def _linear(name: str, coefficients: Floats, offset: float) -> Arrays:
    return {
        f"{name}.weight": np.ascontiguousarray(coefficients[:-1].T, dtype=np.float32),
        f"{name}.bias": (coefficients[-1] + offset).astype(np.float32),
    }
