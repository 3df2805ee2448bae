"""Hostile and broken replies are refused, and the sentence names the site and what was found."""

import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from memory_grid import f32, record, reply

from strategies.arrays import specs, view
from strategies.errors import AggregateRefused, ReplyRefused
from strategies.exchange import Member
from strategies.guard import check_aggregate, check_train_reply, is_finite

GLOBAL = record(w=np.zeros((2, 3), np.float32), b=f32(0, 0), seen=np.asarray(7, np.int64))
SITE = Member(101, "vienna", 12)


def good(**changed: np.ndarray) -> ArrayRecord:
    arrays = {"w": np.ones((2, 3), np.float32), "b": f32(1, 2), "seen": np.asarray(9, np.int64), **changed}
    return record(**arrays)


def without(name: str) -> ArrayRecord:
    arrays = good()
    del arrays[name]
    return arrays


def raw(data: bytes, stype: str = "numpy.ndarray") -> ArrayRecord:
    """Return arrays whose ``b`` claims to be right and holds other bytes."""
    arrays = good()
    arrays["b"] = Array(dtype="float32", shape=(2,), stype=stype, data=data)
    return arrays


def npy(values: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, b=f32(1, 2))
    return buffer.getvalue()


def content(**metrics: float | list[float]) -> RecordDict:
    return RecordDict({"arrays": good(), "metrics": MetricRecord(metrics)})


def test_a_good_reply_passes_with_config_records_beside_it() -> None:
    sent = reply(good(), 12)
    sent["note"] = ConfigRecord({"device": "cpu"})
    check_train_reply(sent, specs(GLOBAL), SITE)


HOSTILE = {
    "nan": (reply(good(b=f32(1, np.nan)), 12), "array b has 1 of 2 values that are not finite"),
    "infinite": (reply(good(b=f32(-np.inf, np.nan)), 12), "array b has 2 of 2 values that are not finite"),
    "shape": (reply(good(b=f32(1)), 12), r"array b is float32\[1\]; expected float32\[2\]"),
    "transposed": (reply(good(w=np.ones((3, 2), np.float32)), 12), r"array w is float32\[3, 2\]"),
    "dtype": (reply(good(b=np.ones(2)), 12), r"array b is float64\[2\]; expected float32\[2\]"),
    "counter as float": (reply(good(seen=np.asarray(9.0)), 12), r"array seen is float64\[\]; expected int64"),
    "missing": (reply(without("b"), 12), "missing: b"),
    "unknown": (reply(good(extra=f32(1)), 12), "unknown: extra"),
    "no arrays": (reply(ArrayRecord(), 12), "missing: w, b, seen"),
    "labelled wrongly": (reply(raw(npy(f32(1, 2, 3))), 12), r"array b is float32\[3\]"),
    "cut short": (reply(raw(npy(f32(1, 2))[:-1]), 12), "array b cannot be read"),
    "trailing bytes": (reply(raw(npy(f32(1, 2)) + b"x"), 12), "array b cannot be read"),
    "empty": (reply(raw(b""), 12), "array b cannot be read"),
    "archive": (reply(raw(npz()), 12), "array b cannot be read"),
    "pickled": (reply(raw(npy(np.asarray([1, {}], dtype=object), allow_pickle=True)), 12), "Python objects"),
    "other format": (reply(raw(b"\0\0", stype="torch"), 12), "serialised as 'torch'"),
    "too many examples": (reply(good(), 1e9), r"reports 1e\+09 training images but registered 12"),
    "no examples": (reply(good(), 0), "num-examples is 0; it must be above zero"),
    "negative": (reply(good(), -12), "num-examples is -12"),
    "nan examples": (reply(good(), float("nan")), "num-examples is nan"),
    "examples as list": (content(**{"num-examples": [12.0], "loss": 1.0}), r"num-examples is \[12.0\]"),
    "no num-examples": (content(loss=1.0), "its metrics lack num-examples"),
    "nan loss": (reply(good(), 12, loss=float("nan")), "loss is nan"),
    "no loss": (content(**{"num-examples": 12}), "its metrics lack loss"),
    "no records": (RecordDict(), "expected one array record named arrays; found none"),
    "other name": (RecordDict({"weights": good()}), "found weights"),
    "two array records": (RecordDict({"arrays": good(), "more": good()}), "found arrays, more"),
    "two metric records": (
        RecordDict({"arrays": good(), "metrics": MetricRecord(), "more": MetricRecord()}),
        "expected one metric record named metrics; found metrics, more",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_reply_is_refused_by_name(case: str) -> None:
    sent, sentence = HOSTILE[case]
    with pytest.raises(ReplyRefused, match=sentence) as refused:
        check_train_reply(sent, specs(GLOBAL), SITE)
    assert str(refused.value).startswith("site vienna: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "array",
    [
        f32(1, 2),
        np.asarray(3, np.int64),
        np.zeros((0, 4)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        f32(5) > 4,
    ],
)
def test_view_equals_flowers_numpy_without_a_copy(array: np.ndarray) -> None:
    sent = Array(array)
    seen = view(sent)
    np.testing.assert_array_equal(seen, sent.numpy())
    assert seen.dtype == array.dtype
    assert not seen.flags.writeable
    assert not seen.flags.owndata


def test_is_finite() -> None:
    assert is_finite(f32(1, -1e38))
    assert is_finite(np.zeros((0,)))
    assert is_finite(np.asarray([1, 2]))
    assert not is_finite(f32(1, np.inf))
    assert not is_finite(f32(np.nan, 1))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [100_000, 3 << 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_is_finite_of_many_values(dtype: type, size: int) -> None:
    values = np.ones(size, dtype)
    assert is_finite(values)
    largest = np.finfo(dtype).max
    values[:] = largest  # their sum would be beyond the type
    assert is_finite(values)
    values[70_000] = np.nan
    assert not is_finite(values)
    values[70_000:70_002] = np.inf, -np.inf
    assert not is_finite(values)


def test_an_aggregate_must_be_a_model() -> None:
    expected = {name: spec for name, spec in specs(GLOBAL).items() if name != "seen"}
    check_aggregate(record(w=np.ones((2, 3)), b=f32(1, 2)), expected, "FedAdam")
    for wrong, sentence in [
        (None, "FedAdam returned nothing"),
        (record(w=np.ones((2, 3))), "other arrays"),
        (record(w=np.ones((3, 3)), b=f32(1, 2)), r"shape \[3, 3\] in w"),
        (record(w=np.ones((2, 3)), b=f32(1, np.nan)), "values that are not finite in b"),
        (record(w=np.full((2, 3), 1e300), b=f32(1, 2)), "values that are not finite in w"),
    ]:
        with pytest.raises(AggregateRefused, match=sentence), np.errstate(over="ignore"):
            check_aggregate(wrong, expected, "FedAdam")
