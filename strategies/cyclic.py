"""Cyclic weight transfer: the model goes from site to site, each training it in turn.

Chang et al., "Distributed deep learning networks among institutions for medical imaging", JAMIA 25 (2018). A
round is one cycle in the sites' order; nothing is averaged. With one site it is FedAvg.
"""

from strategies.fedavg import StreamingFedAvg


class CyclicTransfer(StreamingFedAvg):
    """Asked one after the other by ``strategies.rounds``: of one reply, FedAvg's mean is that model."""
