"""The guard at the server's door: what a reply to ``train`` must be before it may touch the global model.

Flower's FedAvg takes what it gets: one NaN of one site ruins the model for all, a wrong example count buys a
site any weight, and integer buffers come back as floats. Every reply is therefore checked against the model
that was sent out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from strategies import half_bits
from strategies.arrays import INEXACT, ArraySpec, records, view
from strategies.blocks import over_blocks
from strategies.errors import AggregateRefused, ReplyRefused
from strategies.exchange import Member
from strategies.names import some

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
NUM_EXAMPLES = "num-examples"
SERVER_ROUND = "server-round"
LOSS = "loss"


_SMALL: Final = 1 << 12
"""Elements of an array for which a call takes longer than its work."""
LEAST, MOST = 1e-9, 1e6
"""Numbers that a strategy demands lie between these: others would drown every other site's."""


@dataclass(frozen=True)
class Demands:
    """What a reply must hold beside the model, its loss and its number of images."""

    records: Mapping[str, Mapping[str, ArraySpec]] = field(default_factory=dict)
    """Name of an array record to what is in it."""
    metrics: tuple[str, ...] = ()
    """Names of numbers, from LEAST to MOST."""


NOTHING_MORE = Demands()


def check_train_reply(
    content: RecordDict,
    expected: Mapping[str, ArraySpec],
    member: Member,
    demands: Demands = NOTHING_MORE,
) -> None:
    """Return if the reply may be aggregated; otherwise raise ReplyRefused naming site, array and finding.

    It must hold the array record ``arrays`` with the names, shapes and dtypes of the global model and only
    finite values, the records that are demanded beside it and no other, and exactly one metric record
    ``metrics`` with a finite ``loss``, the ``num-examples`` that the site registered and the numbers that are
    demanded. Config records may come along; they are ignored.
    """
    arrays, metrics = records(content, ArrayRecord), records(content, MetricRecord)
    _require_only(list(arrays), [ARRAYS, *demands.records], "array", member)
    _require_only(list(metrics), [METRICS], "metric", member)
    check_metrics(metrics[METRICS], member)
    for key in demands.metrics:
        if not LEAST <= (found := number(metrics[METRICS], key, member)) <= MOST:
            raise ReplyRefused(
                f"site {member.name}: {key} is {found:g}; it must be between {LEAST:g} and {MOST:g}"
            )
    check_arrays(arrays[ARRAYS], expected, member)
    for name, wanted in demands.records.items():
        check_arrays(arrays[name], wanted, member, f"{name}: ")


def check_round(content: RecordDict, asked: int, member: Member) -> None:
    """Return if the reply says that it is for the round that was asked; otherwise raise ReplyRefused.

    A site that was held up, or whose process answers from an earlier model, must not bring an old round's
    weights into this one: they have the right shapes and are finite.
    """
    metrics = records(content, MetricRecord)
    _require_only(list(metrics), [METRICS], "metric", member)
    if SERVER_ROUND not in metrics[METRICS]:
        raise ReplyRefused(
            f"site {member.name}: its metrics lack {SERVER_ROUND}, so that it may answer an earlier round; "
            "does it run the same version of fedderm?"
        )
    if (found := number(metrics[METRICS], SERVER_ROUND, member)) != asked:
        raise ReplyRefused(f"site {member.name}: its reply is for round {found:g}; round {asked} was asked")


def check_metrics(metrics: MetricRecord, member: Member) -> None:
    """Return if loss and example count can be trusted; otherwise raise ReplyRefused."""
    found = number(metrics, NUM_EXAMPLES, member)
    if found <= 0:
        raise ReplyRefused(f"site {member.name}: {NUM_EXAMPLES} is {found:g}; it must be above zero")
    if found != member.num_examples:
        raise ReplyRefused(
            f"site {member.name}: it reports {found:g} training images but registered {member.num_examples}; "
            "a site's weight may not change during a run"
        )
    number(metrics, LOSS, member)
    for key in metrics:  # all are written into the run's record
        number(metrics, key, member)


def check_arrays(
    arrays: ArrayRecord, expected: Mapping[str, ArraySpec], member: Member, where: str = ""
) -> None:
    """Return if every array is the expected one's counterpart and finite; otherwise raise ReplyRefused.

    ``where`` names the record, unless it is the model's.
    """
    missing = [name for name in expected if name not in arrays]
    surplus = [name for name in arrays if name not in expected]
    if missing or surplus:
        raise ReplyRefused(
            f"site {member.name}: {where}its arrays are not the global model's"
            + (f"; missing: {some(missing)}" if missing else "")
            + (f"; unknown: {some(surplus)}" if surplus else "")
        )
    for name, spec in expected.items():
        try:
            values = view(arrays[name])
        except ValueError as error:
            raise ReplyRefused(f"site {member.name}: {where}array {name} cannot be read: {error}") from error
        if values.shape != spec.shape or values.dtype != spec.dtype:
            found = ArraySpec(values.shape, values.dtype)
            raise ReplyRefused(f"site {member.name}: {where}array {name} is {found}; expected {spec}")
        if not is_finite(values):
            bad = values.size - int(np.isfinite(values).sum())
            raise ReplyRefused(
                f"site {member.name}: {where}array {name} has {bad} of {values.size} values that are "
                "not finite"
            )


def check_aggregate(arrays: ArrayRecord | None, wanted: Mapping[str, ArraySpec], strategy: str) -> None:
    """Return if the strategy's result can be the next model; otherwise raise AggregateRefused.

    Shapes must be the ``wanted`` arrays' and values finite; the dtype is restored afterwards, as some
    strategies widen it.
    """
    if arrays is None or set(arrays) != set(wanted):
        what = "nothing" if arrays is None else "other arrays than the model's"
        raise AggregateRefused(f"strategy {strategy} returned {what}; the last finished round is kept")
    for name, spec in wanted.items():
        values = view(arrays[name])
        if values.shape != spec.shape or not is_finite(values.astype(spec.dtype, copy=False)):
            what = (
                "values that are not finite" if values.shape == spec.shape else f"shape {list(values.shape)}"
            )
            raise AggregateRefused(
                f"strategy {strategy} returned {what} in {name}; the last finished round is kept; "
                "lower the learning rate or look at the sites' losses"
            )


def is_finite(values: NDArray[Any]) -> bool:
    """Return whether no value is NaN or infinite.

    Minimum and maximum carry a NaN along, so two passes over each block answer it; of a small array, such as
    most of a model's, one pass costs less than the second call.
    """
    if values.dtype.kind not in INEXACT:
        return True
    if values.size <= _SMALL:
        return bool(np.isfinite(values).all())
    if values.dtype == np.float16:
        return all(over_blocks(half_bits.is_finite, values))
    return all(over_blocks(lambda block: np.isfinite(block.min()) and np.isfinite(block.max()), values))


def number(metrics: MetricRecord, key: str, member: Member) -> float:
    """Return one finite number of a site's metrics; raise ReplyRefused where there is none."""
    value = metrics.get(key)
    if value is None:
        raise ReplyRefused(f"site {member.name}: its metrics lack {key}")
    if isinstance(value, list) or not math.isfinite(value):
        raise ReplyRefused(f"site {member.name}: {key} is {value}; it must be one finite number")
    return float(value)


def _require_only(found: list[str], names: list[str], kind: str, member: Member) -> None:
    if sorted(found) != sorted(names):
        wanted = f"one {kind} record named {names[0]}" if len(names) == 1 else f"{kind} records {some(names)}"
        held = some(sorted(found)) if found else "none"
        raise ReplyRefused(f"site {member.name}: expected {wanted}; found {held}")
