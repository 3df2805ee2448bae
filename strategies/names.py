"""Which strategies there are, and where each lives. Nothing is imported here: a config is checked in no
time.
"""

import difflib
from typing import Final

STRATEGIES: Final[dict[str, str]] = {
    "fedavg": "strategies.fedavg:StreamingFedAvg",
    "fedprox": "strategies.fedprox:StreamingFedProx",
    "scaffold": "strategies.scaffold:Scaffold",
    "feddyn": "strategies.feddyn:FedDyn",
    "fednova": "strategies.fednova:FedNova",
    "fedbn": "strategies.fedbn:FedBN",
    "silobn": "strategies.silobn:SiloBN",
    "fedper": "strategies.fedper:FedPer",
    "fed3r": "strategies.fed3r:Fed3R",
    "cyclic": "strategies.cyclic:CyclicTransfer",
    "qfedavg": "strategies.qfedavg:FairFedAvg",
    "dpfedavg": "strategies.dpfedavg:PrivateFedAvg",
    "fedavgm": "flwr.serverapp.strategy:FedAvgM",
    "fedadagrad": "flwr.serverapp.strategy:FedAdagrad",
    "fedadam": "flwr.serverapp.strategy:FedAdam",
    "fedyogi": "flwr.serverapp.strategy:FedYogi",
    "fedmedian": "flwr.serverapp.strategy:FedMedian",
    "fedtrimmedavg": "flwr.serverapp.strategy:FedTrimmedAvg",
    "krum": "flwr.serverapp.strategy:Krum",
    "multikrum": "flwr.serverapp.strategy:MultiKrum",
    "bulyan": "flwr.serverapp.strategy:Bulyan",
}
"""Name in a config to ``module:class``."""


def unknown(name: str) -> str:
    """Return the sentence about a name that does not exist, with the nearest that does."""
    return f"there is no strategy {name}; {instead(name, list(STRATEGIES))}"


def instead(word: str, known: list[str]) -> str:
    """Return what to write in place of ``word``: the nearest of the ``known``, or all of them."""
    if not known:
        return "it has none"
    nearest = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}"


def some(names: list[str], most: int = 3) -> str:
    """Return the first ``most`` names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
