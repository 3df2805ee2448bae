"""SiloBN: each site keeps its own BatchNorm statistics, and shares scales and shifts.

Andreux et al., "Siloed Federated Learning for Multi-Centric Histopathology Datasets", DART 2020. A site that
never trained normalises with statistics of its own unlabelled images, as the paper does, or with the mean's.
"""

from typing import ClassVar

from strategies.fedbn import FedBN, OwnNorms
from strategies.site_side import Keeps, SiteSide


class OwnStatistics(OwnNorms):
    """The site's part: it keeps running means and variances."""

    keeps: ClassVar[Keeps | None] = "norm-statistics"


class SiloBN(FedBN):
    """The server's part: FedAvg, as FedBN's."""

    site_side: ClassVar[type[SiteSide]] = OwnStatistics
