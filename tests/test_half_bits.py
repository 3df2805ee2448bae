"""float32 to float16 and back: bit for bit what NumPy makes of it, for each float16 and what lies between."""

import numpy as np
import pytest
from numpy.typing import NDArray

from strategies.half_bits import is_finite, plus_step, step_in_half, to_half, to_single

EVERY_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def same(found: NDArray[np.floating], expected: NDArray[np.floating]) -> bool:
    """Return whether dtype and bits are equal, but for which NaN a NaN is."""
    numbers = ~np.isnan(expected)
    kind = f"u{expected.dtype.itemsize}"
    return (
        found.dtype == expected.dtype
        and bool((np.isnan(found) == ~numbers).all())
        and bool((found.view(kind)[numbers] == expected.view(kind)[numbers]).all())
    )


def test_every_float16_comes_back() -> None:
    singles = EVERY_HALF.astype(np.float32)
    assert same(to_single(EVERY_HALF), singles)
    assert same(to_half(singles), EVERY_HALF)


def test_ties_and_their_neighbours_round_as_numpy_rounds() -> None:
    """Between two neighbours of float16: the middle, and the float32s right below and above it."""
    finite = np.sort(np.unique(EVERY_HALF[np.isfinite(EVERY_HALF)]).astype(np.float64))
    middle = ((finite[:-1] + finite[1:]) / 2).astype(np.float32)
    beyond = np.float32([65504, 65519.996, 65520, 65536, 1e38, np.inf, np.nan])
    smallest = np.float32([1e-45, 2.0**-25, np.nextafter(np.float32(2.0**-25), 1), 2.0**-24 * 1.5])
    values = np.concatenate(
        [middle, np.nextafter(middle, np.float32(-np.inf)), np.nextafter(middle, np.float32(np.inf))]
        + [sign * one for sign in (-1, 1) for one in (beyond, smallest)]
    )
    with np.errstate(over="ignore"):
        assert same(to_half(values), values.astype(np.float16))


@pytest.mark.parametrize("shape", [(3,), (70_000,), (1 << 11, 1 << 10)])
def test_any_bits_in_any_shape(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(7)
    values = rng.integers(0, 1 << 32, shape, dtype=np.uint32).view(np.float32)
    start = rng.normal(size=shape).astype(np.float16)
    with np.errstate(all="ignore"):
        assert same(to_half(values), values.astype(np.float16))
        assert same(step_in_half(values, start), (values - start.astype(np.float32)).astype(np.float16))
        assert same(plus_step(values, start), values + start.astype(np.float32))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, -np.nan])
def test_one_value_that_is_not_finite_is_seen(bad: float) -> None:
    values = np.float16([0, -0.0, 65504, -65504, 6e-8])
    assert is_finite(values)
    assert not is_finite(np.append(values, np.float16(bad)))
