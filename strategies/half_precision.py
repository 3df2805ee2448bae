"""Models in half precision on their way: large arrays travel as float16, the server's own copy stays float32.

With ``M`` the server's model in float32 and ``R = float16(M)``: sites are sent ``R``; site k trains it to
``y_k`` and sends back ``u_k = float16(y_k - R)``; a strategy is shown ``M + u_k`` as that site's model. So
FedAvg's next model is ``M + sum p_k u_k``, and for methods that step from ``M``, such as FedAdam, SCAFFOLD or
FedNova, a site's step ``(M + u_k) - M`` is ``u_k``. Steps below float16's resolution of a weight add up in
``M`` until ``R`` moves; with ``R + u_k`` in its place each round would round them away, and a model near its
optimum would stand still. It is the master copy of mixed-precision training (Micikevicius et al., "Mixed
Precision Training", ICLR 2018, section 3.1).

What it costs, by value: the site starts ``|R - M| <= max(2^-11 |M|, 2^-25)`` beside ``M``, and its step is
rounded by at most ``max(2^-11 |y_k - R|, 2^-25)``. An update is sent, not a model, because of the second
bound: a step is small beside its weight. Small arrays, running statistics and integers travel as they are,
records of a strategy's own as well: a control variate holds gradients, many of them below 2^-25, and the
sites' variates would no longer add up to the server's.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from strategies.arrays import ArraySpec, NumPyArray, view
from strategies.blocks import over_blocks
from strategies.half_bits import is_finite, plus_step, step_in_half, to_half, to_single

Exchange = Literal["float32", "float16"]

LEAST: Final = 1024
"""Elements from which on an array is halved: smaller ones, mostly biases and norms, hardly cost anything."""
HALF: Final = np.dtype(np.float16)
SINGLE: Final = np.dtype(np.float32)
_LARGEST: Final = float(np.finfo(HALF).max)


def halved_names(
    model: Mapping[str, ArraySpec], exchange: Exchange, statistics: Iterable[str]
) -> frozenset[str]:
    """Return which of a model's arrays travel as float16; ``statistics``: its running means and variances."""
    if exchange == "float32":
        return frozenset()
    whole = frozenset(statistics)
    return frozenset(
        name
        for name, (shape, dtype) in model.items()
        if dtype == SINGLE and np.prod(shape, dtype=np.int64) >= LEAST and name not in whole
    )


def on_the_way(model: Mapping[str, ArraySpec], names: frozenset[str]) -> dict[str, ArraySpec]:
    """Return what a model's arrays look like on their way where ``names`` travel as float16."""
    return {name: spec._replace(dtype=HALF) if name in names else spec for name, spec in model.items()}


def halved(model: ArrayRecord, names: frozenset[str]) -> ArrayRecord:
    """Return the model as it is sent to sites; arrays beside ``names`` are shared, not copied.

    Raises ValueError where a value is beyond float16.
    """
    return _with(model, {name: NumPyArray(_half(name, to_half, view(model[name]))) for name in names})


def as_received(model: ArrayRecord, names: frozenset[str]) -> ArrayRecord:
    """Return the model that sites start from, in float32: each value is float16's nearest."""
    sent = halved(model, names)
    return _with(sent, {name: NumPyArray(to_single(view(sent[name]))) for name in names})


def reply_arrays(
    trained: Mapping[str, NDArray[Any]], received: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return what a site sends: of arrays that came as float16 their update, in float16; others as they are.

    Raises ValueError where an update is beyond float16.
    """
    return {
        name: _half(name, step_in_half, values, received[name])
        if name in received and received[name].dtype == HALF
        else values
        for name, values in trained.items()
    }


def restored(reply: ArrayRecord, master: ArrayRecord, names: frozenset[str]) -> ArrayRecord:
    """Return a checked reply as a model in float32: the ``names`` are the server's own plus the update."""
    sums = {name: NumPyArray(plus_step(view(master[name]), view(reply[name]))) for name in names}
    return _with(reply, sums)


def _with(model: ArrayRecord, others: Mapping[str, Array]) -> ArrayRecord:
    """Return a record in the order of ``model`` with some arrays in place of its own."""
    if not others:
        return model
    record = ArrayRecord()
    for name, array in model.items():
        record[name] = others.get(name, array)
    return record


def _half(
    name: str, how: Callable[..., NDArray[np.float16]], values: NDArray[Any], *start: NDArray[Any]
) -> NDArray[np.float16]:
    """Return what ``how`` makes of values, and of where they started; raise where float16 does not reach."""
    rounded = how(values, *start)
    if all(over_blocks(is_finite, rounded)):
        return rounded
    # What is not finite already is the guard's to refuse, or the trainer's: here only what float16 made so.
    exact = values - start[0].astype(SINGLE) if start else values
    if np.isinf(rounded).any() and np.isfinite(exact).all():
        raise ValueError(
            f"array {name} holds {exact.flat[np.abs(exact).argmax()]:g}, beyond float16's {_LARGEST:,.0f}; "
            "lower training.learning_rate, or set strategy.exchange: float32"
        )
    return rounded
