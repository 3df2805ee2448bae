"""Files of weights: whole or not at all, the same bits back, and a sentence for what is none."""

import errno
from pathlib import Path

import numpy as np
import pytest
from full_disk import files_of_at_most

from fedderm.weights import read_arrays, save_arrays


def test_every_dtype_shape_and_bit_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        "layer.weight": rng.normal(size=(3, 4, 5)).astype(np.float32),
        "transposed": rng.normal(size=(4, 6)).T,
        "running_mean": np.array([np.nan, -0.0, np.inf], np.float32),
        "num_batches_tracked": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float16),
    }
    save_arrays(tmp_path / "w.safetensors", arrays)
    found = read_arrays(tmp_path / "w.safetensors")
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    save_arrays(target, {"a": np.zeros(2)})
    with files_of_at_most(100_000), pytest.raises(OSError, match="File too large") as caught:
        save_arrays(target, {"a": np.ones(100_000)})
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(target))
    assert list(tmp_path.iterdir()) == [target]
    assert read_arrays(target)["a"].tolist() == [0, 0]


def test_what_is_no_file_of_weights_is_named(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    save_arrays(good, {"a": np.zeros(1000)})
    for content in (b"", b"\x80\x04pickle", good.read_bytes()[:-8]):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{bad}: is not a readable safetensors file"):
            read_arrays(bad)
    with pytest.raises(ValueError, match="no such file of weights"):
        read_arrays(tmp_path / "absent")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        read_arrays(tmp_path)
