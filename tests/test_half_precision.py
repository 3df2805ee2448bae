"""Models in half precision on their way: exact where float16 is, bounded elsewhere, half the bytes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from memory_grid import MemoryGrid, members, record, reply, values
from numpy.typing import NDArray

from strategies.arrays import ArraySpec, specs, view
from strategies.catalogue import build
from strategies.half_precision import (
    LEAST,
    as_received,
    halved,
    halved_names,
    on_the_way,
    reply_arrays,
    restored,
)
from strategies.names import STRATEGIES
from strategies.round_settings import RoundSettings
from strategies.rounds import RoundResult, train_round

HALVED = frozenset({"w"})
SETTINGS = RoundSettings(
    deadline_s=10, quorum=0.5, fraction=1, seed=3, weighting="examples", exchange="float16"
)


def large(value: float, count: int = LEAST) -> NDArray[np.float32]:
    return np.full(count, value, np.float32)


def model(w: NDArray[np.float32], b: float = 0.0) -> ArrayRecord:
    """A large array and what stays as it is: a small one, a running mean, a counter."""
    return record(w=w, b=np.asarray([b], np.float32), mean=large(1.0), seen=np.asarray(5, np.int64))


def site(train: Callable[[dict[str, NDArray[Any]]], None], examples: int) -> Callable[[Message], RecordDict]:
    """A site that trains as ``train`` does in float32, and answers as fedderm's sites do."""

    def answer(message: Message) -> RecordDict:
        received = {name: view(one) for name, one in message.content["arrays"].items()}
        start = {
            name: np.array(one, np.float32 if one.dtype == np.float16 else one.dtype)
            for name, one in received.items()
        }
        train(start)
        return reply(record(**reply_arrays(start, received)), examples)

    return answer


def moves(step: float) -> Callable[[dict[str, NDArray[Any]]], None]:
    def train(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["w"] += np.float32(step)
        arrays["b"] += np.float32(step)

    return train


def a_round(
    start: ArrayRecord, *answers: Callable[[Message], RecordDict], name: str = "fedavg"
) -> RoundResult:
    parameters = {"qfedavg": {"client_learning_rate": 0.1}, "fedprox": {"proximal_mu": 0.0}}.get(name, {})
    sites = members(*[10] * len(answers))
    grid = MemoryGrid({one.node_id: answer for one, answer in zip(sites, answers, strict=True)})
    strategy = build(name, **parameters)
    return train_round(
        strategy, grid, 1, start, ConfigRecord(), sites, SETTINGS, statistics=frozenset({"mean"})
    )


def test_large_float32_arrays_are_halved_and_nothing_else() -> None:
    f32, f64, i64 = (np.dtype(one) for one in ("float32", "float64", "int64"))
    found = {
        "large": ArraySpec((32, 32), f32),
        "small": ArraySpec((LEAST - 1,), f32),
        "scalar": ArraySpec((), f32),
        "double": ArraySpec((LEAST,), f64),
        "counter": ArraySpec((LEAST,), i64),
        "running mean": ArraySpec((LEAST,), f32),
    }
    names = halved_names(found, "float16", {"running mean"})
    assert names == {"large"}
    assert halved_names(found, "float32", ()) == frozenset()
    assert on_the_way(found, names)["large"] == ArraySpec((32, 32), np.dtype(np.float16))
    assert {k: v for k, v in on_the_way(found, names).items() if k != "large"} == {
        k: v for k, v in found.items() if k != "large"
    }


def test_what_float16_holds_exactly_comes_back_bit_for_bit() -> None:
    """Eighths up to 128 have at most ten bits: nothing is rounded, and no update leaves all as it was."""
    w = (np.arange(LEAST, dtype=np.float32) - LEAST // 2) / 8
    start = model(w, 0.3)
    result = a_round(start, site(moves(0.0), 10), site(moves(0.0), 30))
    for found in (as_received(start, HALVED), result.arrays):
        assert values(found).keys() == values(start).keys()
        for name, one in values(start).items():
            assert values(found)[name].tobytes() == one.tobytes(), name


def test_a_round_by_hand() -> None:
    """0.1 is 0.0999755859375 in float16. One site adds 0.25, the other 0.75: the next model is 0.1 + 0.5."""
    seen: list[float] = []

    def watch(arrays: dict[str, NDArray[Any]]) -> None:
        seen.append(float(arrays["w"][0]))
        moves(0.25)(arrays)

    result = a_round(model(large(0.1), 0.1), site(watch, 10), site(moves(0.75), 10))
    assert seen == [0.0999755859375]
    np.testing.assert_allclose(
        values(result.arrays)["w"], np.float32(0.1) + np.float32(0.5), rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(values(result.arrays)["b"], 0.6, rtol=0, atol=1e-7)
    assert values(result.arrays)["w"].dtype == np.float32


def test_steps_below_float16s_resolution_add_up() -> None:
    """Around 1 float16 knows no step below 2^-11; after 64 rounds of 2^-15 the model has moved by 2^-9."""
    arrays = model(large(1.0))
    received: list[float] = []

    def train(one: dict[str, NDArray[Any]]) -> None:
        received.append(float(one["w"][0]))
        moves(2.0**-15)(one)

    for _ in range(64):
        arrays = a_round(arrays, site(train, 10)).arrays
    np.testing.assert_array_equal(values(arrays)["w"], np.float32(1 + 2.0**-9))
    assert received[0] == 1.0
    assert received[-1] > 1.0, "the sites' model follows in steps that float16 knows"


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 100.0])
def test_the_error_is_within_the_bound(scale: float) -> None:
    """|R - M| and the update's rounding: 2^-11 by value, or 2^-25 where float16 is subnormal."""
    rng = np.random.default_rng(1)
    master = (rng.normal(size=4 * LEAST) * scale).astype(np.float32)
    step = (rng.normal(size=4 * LEAST) * scale / 100).astype(np.float32)
    sent = halved(record(w=master), HALVED)
    received = view(sent["w"]).astype(np.float32)
    assert (np.abs(received - master) <= np.maximum(2.0**-11 * np.abs(master), 2.0**-25)).all()
    up = reply_arrays({"w": received + step}, {"w": view(sent["w"])})
    exact = (received + step) - received
    back = view(restored(record(**up), record(w=master), HALVED)["w"]).astype(np.float64) - master
    bound = np.maximum(2.0**-11 * np.abs(exact), 2.0**-25) + 2.0**-24 * np.abs(master + exact)
    assert (np.abs(back - exact) <= bound).all()


def test_both_ways_have_half_the_bytes() -> None:
    """100,000 weights: 200 kB in place of 400, beside headers, the running mean and the small ones."""
    start = model(large(0.5, 100_000))
    grid = MemoryGrid({101: site(moves(0.1), 10)})
    single = train_round(
        build("fedavg"),
        grid,
        1,
        start,
        ConfigRecord(),
        members(10),
        RoundSettings(deadline_s=10, quorum=1, fraction=1, seed=3, weighting="examples"),
    )
    half = a_round(start, site(moves(0.1), 10))
    assert single.bytes_down - half.bytes_down == 200_000
    assert single.bytes_up - half.bytes_up == 200_000
    assert half.bytes_up < 200_000 + 4 * LEAST + 2_000


def test_a_reply_of_another_dtype_is_refused_by_name() -> None:
    def whole(message: Message) -> RecordDict:
        del message
        return reply(model(large(0.5)), 10)

    result = a_round(model(large(0.1)), whole, site(moves(1.0), 10))
    assert result.refused == {"a": "site a: array w is float32[1024]; expected float16[1024]"}
    np.testing.assert_allclose(values(result.arrays)["w"], 1.1, rtol=1e-6)


def test_an_update_that_is_not_finite_is_refused_before_it_is_added() -> None:
    result = a_round(model(large(0.1)), site(moves(np.nan), 10), site(moves(1.0), 10))
    assert "site a: array w has 1024 of 1024 values that are not finite" in result.refused["a"]
    np.testing.assert_allclose(values(result.arrays)["w"], 1.1, rtol=1e-6)


def test_what_is_beyond_float16_is_told_not_clipped() -> None:
    result = a_round(model(large(0.0)), site(moves(-70_000.0), 10), site(moves(1.0), 10))
    assert result.refused["a"] == (
        "site a: array w holds -70000, beyond float16's 65,504; lower training.learning_rate, or set "
        "strategy.exchange: float32"
    )
    with pytest.raises(ValueError, match="array w holds 70000, beyond float16's 65,504"):
        a_round(model(large(70_000.0)), site(moves(0.0), 10))


@pytest.mark.parametrize(
    "name", sorted(set(STRATEGIES) - {"fed3r", "scaffold", "fednova", "qfedavg", "bulyan"})
)
def test_every_strategy_is_shown_models_in_float32(name: str) -> None:
    """With sites that all take one exact step of 1/4, each strategy's result is the one in float32."""
    start, answers = model(large(0.5), 0.5), [site(moves(0.25), 10) for _ in range(4)]
    sites = members(10, 10, 10, 10)
    found = []
    parameters: dict[str, Any] = {
        "fedprox": {"proximal_mu": 0.0},
        "dpfedavg": {"noise_multiplier": 0.0, "clipping_norm": 1e9, "sites": 4},
    }.get(name, {})
    for exchange in ("float32", "float16"):
        settings = RoundSettings(**{**vars(SETTINGS), "exchange": exchange})
        grid = MemoryGrid({one.node_id: answer for one, answer in zip(sites, answers, strict=True)})
        result = train_round(
            build(name, **parameters),
            grid,
            1,
            start,
            ConfigRecord(),
            sites,
            settings,
            statistics=frozenset({"mean"}),
        )
        found.append(result.arrays)
    assert specs(found[1]) == specs(start)
    assert {k: v.tobytes() for k, v in values(found[0]).items()} == {
        k: v.tobytes() for k, v in values(found[1]).items()
    }
