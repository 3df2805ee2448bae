"""Fed3R: the heads in closed form, from one exchange of sums.

Fanì et al., "Accelerating Heterogeneous Federated Learning with Closed-form Classifiers", ICML 2024.
"""

from strategies.fedavg import StreamingFedAvg


class Fed3R(StreamingFedAvg):
    """The strategy whose one round is the exchange of moments (fedderm.federation.head_start).

    Moments add up to those of the pooled features, so there is no model of a site to average, and unlike
    sites do no harm.
    """
