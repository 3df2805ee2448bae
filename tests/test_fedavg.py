"""FedAvg's mathematics: numbers derived by hand, limits, and Flower's own FedAvg on the same replies."""

import gc
import weakref
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_grid import f32, record, values

from strategies.catalogue import build, parameters_of
from strategies.fedavg import StreamingFedAvg
from strategies.names import STRATEGIES
from strategies.running_mean import NDArrays, RunningMean

NEEDED = {
    "dpfedavg": {"noise_multiplier": 1.0, "clipping_norm": 1.0, "sites": 2},
    "fedprox": {"proximal_mu": 0.1},
    "qfedavg": {"client_learning_rate": 0.1},
}


def message(arrays: ArrayRecord, weight: float) -> Message:
    """Return a reply as train_round hands it to a strategy."""
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"weight": weight})})
    asked = Message(RecordDict(), 1, "train")
    asked.metadata.__dict__["_message_id"] = "asked"
    return Message(content, reply_to=asked)


def weighted_mean(models: Iterable[tuple[NDArrays, float]]) -> NDArrays:
    mean = RunningMean()
    for model, weight in models:
        mean.add(model, weight)
    return mean.result()


def test_weighted_mean_by_hand() -> None:
    """(10 * [1, 2] + 30 * [5, 6]) / 40 = [160, 200] / 40 = [4, 5]."""
    mean = weighted_mean([({"w": f32(1, 2)}, 10), ({"w": f32(5, 6)}, 30)])
    np.testing.assert_array_equal(mean["w"], f32(4, 5))
    assert mean["w"].dtype == np.float32


def test_equal_weights_are_the_plain_mean() -> None:
    mean = weighted_mean([({"w": f32(x)}, 1.0) for x in (1, 2, 6)])
    np.testing.assert_array_equal(mean["w"], f32(3))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    weights=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=30),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_the_mean_of_equal_models_is_that_model_exactly(seed: int, weights: list[float], dtype: type) -> None:
    model = {"w": np.random.default_rng(seed).normal(size=17).astype(dtype)}
    np.testing.assert_array_equal(weighted_mean([(model, weight) for weight in weights])["w"], model["w"])


def test_one_site_gives_that_sites_model_and_a_scalar_stays_a_scalar() -> None:
    model = {"w": f32(1 / 3, 1e-30, -7), "scale": np.asarray(np.float32(0.1))}
    mean = weighted_mean([(model, 123)])
    np.testing.assert_array_equal(mean["w"], model["w"])
    assert mean["scale"].shape == ()
    assert mean["scale"] == np.float32(0.1)


def test_arrays_of_all_sizes_and_dtypes_have_their_own_mean() -> None:
    """They share a piece of memory; one is empty, one is worked on by several threads."""
    rng = np.random.default_rng(0)
    shapes = {"a": (3,), "none": (0, 4), "wide": (5, 7), "scale": (), "large": (1 << 21, 1), "b": (9,)}
    dtypes = {name: np.float64 if name == "wide" else np.float32 for name in shapes}
    models: list[NDArrays] = [
        {name: rng.random(shape, dtypes[name]) for name, shape in shapes.items()} for _ in range(2)
    ]
    mean = weighted_mean([(model, 1.0) for model in models])
    assert list(mean) == list(shapes)
    for name, found in mean.items():
        first, second = models[0][name], models[1][name]
        assert found.dtype == first.dtype
        assert found.flags.aligned
        np.testing.assert_array_equal(found, first + (second - first) * first.dtype.type(0.5))


@pytest.mark.parametrize("weight", [0, -1, np.nan, np.inf])
def test_a_weight_must_be_positive(weight: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        RunningMean().add({"w": f32(1)}, weight)


def test_no_models_have_no_mean_and_other_arrays_do_not_join() -> None:
    with pytest.raises(ValueError, match="no models"):
        weighted_mean([])
    with pytest.raises(ValueError, match="other arrays"):
        weighted_mean([({"w": f32(1)}, 1), ({"v": f32(1)}, 1)])


def test_models_are_not_written_to() -> None:
    model = {"w": f32(1, 2)}
    weighted_mean([(model, 1), ({"w": f32(9, 9)}, 3)])
    np.testing.assert_array_equal(model["w"], f32(1, 2))


def test_equals_flowers_fedavg() -> None:
    rng = np.random.default_rng(5)
    models = [record(w=rng.normal(size=(64, 9)).astype(np.float32), b=f32(i)) for i in range(7)]
    weights = rng.integers(1, 500, size=7)
    replies = [message(model, int(weight)) for model, weight in zip(models, weights, strict=True)]
    ours, _ = StreamingFedAvg(weighted_by_key="weight").aggregate_train(1, iter(replies))
    theirs, _ = FedAvg(weighted_by_key="weight").aggregate_train(1, replies)
    assert ours is not None
    assert theirs is not None
    assert list(ours) == ["w", "b"]
    for name, found in values(ours).items():
        np.testing.assert_allclose(found, values(theirs)[name], rtol=0, atol=1e-6)


def test_each_reply_is_released_before_the_next_is_fetched() -> None:
    """Memory holds one partial sum: when reply i is asked for, none of the earlier ones is alive."""
    alive: list[weakref.ref[Message]] = []
    most = 0

    def replies() -> Iterator[Message]:
        nonlocal most
        for i in range(5):
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
            yield made(i)

    def made(i: int) -> Message:
        one = message(record(w=f32(i)), 1)
        alive.append(weakref.ref(one))
        return one

    arrays, metrics = StreamingFedAvg(weighted_by_key="weight").aggregate_train(1, replies())
    assert arrays is not None
    assert metrics == {"replies": 5, "weight": 5.0}
    np.testing.assert_array_equal(values(arrays)["w"], f32(2))
    assert most == 0


def test_no_replies_give_no_model() -> None:
    assert StreamingFedAvg().aggregate_train(1, iter([])) == (None, None)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_of_the_catalogue_can_be_built(name: str) -> None:
    strategy = build(name, **NEEDED.get(name, {}))
    inner = getattr(strategy, "strategy", strategy)  # of Flower's wrappers
    assert inner.weighted_by_key == "weight"


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no strategy fedpro; did you mean fedprox\?"):
        build("fedpro")
    with pytest.raises(ValueError, match="fedprox has no parameter mu; known: proximal_mu"):
        build("fedprox", mu=0.1)
    with pytest.raises(ValueError, match="fedavg has no parameter momentum; it has none"):
        build("fedavg", momentum=0.9)
    with pytest.raises(ValueError, match="fedprox needs proximal_mu"):
        build("fedprox")
    with pytest.raises(ValueError, match="fraction_train"):
        build("fedavg", fraction_train=0.5)
    assert parameters_of("fedavgm") == {"server_learning_rate": 1.0, "server_momentum": 0.0}
