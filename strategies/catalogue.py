"""The strategies by name: ours, and Flower's own as they are. A new one is a file and a line in names.py.

Names are known without importing Flower; a class is imported when it is asked for.
"""

import inspect
from importlib import import_module
from typing import Any, Final

from flwr.serverapp.strategy import FedAvgM, Strategy
from flwr.serverapp.strategy.fedopt import FedOpt

from strategies.names import STRATEGIES, instead, unknown
from strategies.site_side import SiteSide

WEIGHT: Final = "weight"
"""The metric by which every strategy weighs a reply; ``train_round`` sets it."""

_FLOWERS_MEMORY: Final = {
    "fedavgm": ("momentum_vector",),
    "fedadagrad": ("m_t", "v_t"),
    "fedadam": ("m_t", "v_t"),
    "fedyogi": ("m_t", "v_t"),
}
"""Attributes of Flower's strategies that a resumed run needs; ours say it themselves."""

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
    for parameter in inspect.signature(_class(name).__init__).parameters.values():
        if parameter.name in fixed or parameter.name.endswith(("_fn", "_rule")):
            continue
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            found[parameter.name] = None if parameter.default is parameter.empty else parameter.default
    return found


def build(name: str, **parameters: Any) -> Strategy:
    """Return the strategy called ``name``, ready for ``train_round``.

    Raises ValueError for a name or a parameter that does not exist (with the nearest that does) and for
    a parameter that is missing, of another type or out of range.
    """
    known = parameters_of(name)
    for given, value in parameters.items():
        if given not in known:
            raise ValueError(f"strategy {name} has no parameter {given}; {instead(given, list(known))}")
        if isinstance(value, str) != isinstance(known[given], str):
            wanted = "a word" if isinstance(known[given], str) else "a number"
            raise ValueError(f"strategy {name}: {given} must be {wanted}, not {value!r}")
    missing = [key for key, default in known.items() if default is None and key not in parameters]
    if missing:
        raise ValueError(f"strategy {name} needs {', '.join(missing)}")
    return _class(name)(**_SETTLED, **parameters)


def site_side(name: str) -> SiteSide:
    """Return what the strategy called ``name`` does at a site; nothing beyond FedAvg for Flower's own."""
    found: type[SiteSide] = getattr(_class(name), "site_side", SiteSide)
    return found()


def memory_of(name: str) -> tuple[str, ...]:
    """Return the attributes of the strategy called ``name`` that a resumed run needs."""
    return _FLOWERS_MEMORY.get(name, tuple(getattr(_class(name), "memory", ())))


def extrapolates(strategy: Strategy) -> bool:
    """Return whether the next model may lie outside of what the sites sent.

    A variance may not be extrapolated: below zero it breaks a network. Running statistics then go around the
    strategy.
    """
    return bool(getattr(strategy, "extrapolates", isinstance(strategy, FedAvgM | FedOpt)))


def _class(name: str) -> type[Strategy]:
    if name not in STRATEGIES:
        raise ValueError(unknown(name))
    module, _, attribute = STRATEGIES[name].partition(":")
    found: type[Strategy] = getattr(import_module(module), attribute)
    return found
