"""FedPer: a shared trunk, and a head for each site.

Arivazhagan et al., "Federated Learning with Personalization Layers", 2019, Algorithms 1 and 2. A site's
*personal* model is the shared trunk with its own heads. The paper gives sites that never trained nothing;
here heads are sent too, and their mean on the shared trunk is the global model, which such sites get.
"""

from strategies.fedavg import StreamingFedAvg
from strategies.site_side import KeepsOwn


class OwnHeads(KeepsOwn):
    """The site's part: it keeps its heads."""

    keeps = "heads"


class FedPer(StreamingFedAvg):
    """The server's part: FedAvg."""

    site_side = OwnHeads
