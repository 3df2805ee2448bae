"""The strategies by name: ours, and Flower's own as they are."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any, Final

from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    Strategy,
)

from strategies.fed3r import Fed3R
from strategies.fedavg import StreamingFedAvg
from strategies.fedprox import StreamingFedProx

STRATEGIES: Final[dict[str, Callable[..., Strategy]]] = {
    "fedavg": StreamingFedAvg,
    "fedprox": StreamingFedProx,
    "fed3r": Fed3R,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
}

REMEMBERS: Final = frozenset({"fedavgm", "fedadagrad", "fedadam", "fedyogi"})
"""Strategies with a momentum of their own between rounds: resumed, they start it anew."""

WEIGHT: Final = "weight"
"""The metric by which every strategy weighs a reply; ``train_round`` sets it."""

_SETTLED: Final[dict[str, Any]] = {
    # Who takes part is decided by train_round, so a strategy takes every node that it is shown.
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
    "weighted_by_key": WEIGHT,
}


def parameters_of(name: str) -> dict[str, object]:
    """Return the parameters a person may set, with their defaults (None: it must be given)."""
    fixed = {*_SETTLED, "arrayrecord_key", "configrecord_key", "self"}
    found = {}
    for parameter in inspect.signature(_constructor(name).__init__).parameters.values():
        if parameter.name in fixed or parameter.name.endswith(("_fn", "_rule")):
            continue
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            found[parameter.name] = None if parameter.default is parameter.empty else parameter.default
    return found


def build(name: str, **parameters: Any) -> Strategy:
    """Return the strategy called ``name``, ready for ``train_round``.

    Raises ValueError for a name or a parameter that does not exist (with the nearest that does) and for
    a parameter that is missing or out of range.
    """
    constructor = _constructor(name)
    known = parameters_of(name)
    for given in parameters:
        if given not in known:
            raise ValueError(f"strategy {name} has no parameter {given}; {_instead(given, list(known))}")
    missing = [key for key, default in known.items() if default is None and key not in parameters]
    if missing:
        raise ValueError(f"strategy {name} needs {', '.join(missing)}")
    return constructor(**_SETTLED, **parameters)


def _constructor(name: str) -> Callable[..., Strategy]:
    if name not in STRATEGIES:
        raise ValueError(f"there is no strategy {name}; {_instead(name, list(STRATEGIES))}")
    return STRATEGIES[name]


def _instead(word: str, known: list[str]) -> str:
    if not known:
        return "it has none"
    nearest = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}"
