"""Flower arrays as NumPy arrays, without copying them and without trusting their label."""

import math
from collections.abc import Mapping
from functools import cached_property, lru_cache
from io import BytesIO
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import SType
from numpy.lib import format as npy
from numpy.typing import NDArray

Record = TypeVar("Record", ArrayRecord, MetricRecord, ConfigRecord)


INEXACT: Final = "fc"
"""The kinds of NumPy's inexact dtypes: real and complex floating point."""


class ArraySpec(NamedTuple):
    """What an array must look like to take part: shape and dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}"


class NumPyArray(Array):
    """A Flower array that shows the memory of ``values`` and is serialised only where bytes are asked for.

    Flower's own holds the bytes of ``numpy.save``: a copy when it is made, and one more wherever it goes.
    This one is pickled out of band (PEP 574), so that on one machine Ray copies the values once, into shared
    memory, where the receiver sees them; over a network Flower asks for ``data``, as of any array. The values
    must stay as they are while the array is in use. Raises ValueError for Python objects.
    """

    values: NDArray[Any]

    def __init__(self, values: NDArray[Any]) -> None:
        values = np.asarray(values, order="C").view()
        if values.dtype.hasobject:
            raise ValueError("it holds Python objects")
        values.flags.writeable = False
        # Not by assignment, which Flower watches: each message brings a model of hundreds of arrays.
        self.__dict__.update(
            values=values, dtype=_name_of(values.dtype), shape=values.shape, stype=SType.NUMPY
        )

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The bytes of ``numpy.save``, made anew with each call."""
        buffer = BytesIO()
        np.save(buffer, self.values, allow_pickle=False)
        return buffer.getvalue()

    @cached_property
    def _plain(self) -> Array:
        """What goes over a network: whoever receives it knows Flower's class alone."""
        return Array(self.dtype, self.shape, self.stype, self.data)

    @property
    def children(self) -> dict[str, Any]:
        """Return the pieces that Flower sends."""
        return self._plain.children

    def deflate(self) -> bytes:
        """Return what Flower sends beside the pieces."""
        return self._plain.deflate()

    def numpy(self) -> NDArray[Any]:
        """Return a copy of the values."""
        return self.values.copy()

    def __reduce__(self) -> tuple[type["NumPyArray"], tuple[NDArray[Any]]]:
        return NumPyArray, (self.values,)


def to_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return named arrays as a record that shows their memory, in their order."""
    record = ArrayRecord()
    for name, values in arrays.items():
        record[name] = NumPyArray(values)  # given a dictionary, ArrayRecord would turn each into bytes
    return record


def copied(record: ArrayRecord) -> ArrayRecord:
    """Return a record with memory of its own."""
    return to_record({name: view(array).copy() for name, array in record.items()})


def size(content: RecordDict) -> int:
    """Return the bytes of a message's records, as Flower counts them; no array is serialised for it."""
    arrays = records(content, ArrayRecord)
    others = sum(record.count_bytes() for name, record in content.items() if name not in arrays)
    return others + sum(
        len(name) + _length(array) for record in arrays.values() for name, array in record.items()
    )


def _length(array: Array) -> int:
    if not isinstance(array, NumPyArray):
        return len(array.data)
    return _header_length(array.values.dtype, array.values.shape) + array.values.nbytes


@lru_cache(maxsize=4096)
def _header_length(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Return the bytes of ``numpy.save`` before the values."""
    header = BytesIO()
    npy.write_array_header_1_0(
        header, npy.header_data_from_array_1_0(np.broadcast_to(np.empty((), dtype), shape))
    )
    return header.tell()


@lru_cache(maxsize=64)
def _name_of(dtype: np.dtype[Any]) -> str:
    """Return NumPy's own word for a dtype, which it takes longer to find than to copy a small array."""
    return str(dtype)


def view(array: Array) -> NDArray[Any]:
    """Return the values of ``array`` as a read-only view of its memory.

    ``Array.numpy()`` copies, and what ``Array.shape`` and ``Array.dtype`` say need not be what the bytes
    hold; a reply comes from another machine, so shape and dtype are read from the bytes themselves. Raises
    ValueError where these are not one plain array in NumPy's format (cut short, an archive, pickled
    objects).
    """
    if isinstance(array, NumPyArray):
        return array.values
    if array.stype != SType.NUMPY:
        raise ValueError(f"it is serialised as {array.stype!r}, not {SType.NUMPY!r}")
    header = BytesIO(array.data)
    if npy.read_magic(header) != (1, 0):
        raise ValueError("its bytes are not in NumPy's format 1.0")
    try:
        shape, fortran_order, dtype = npy.read_array_header_1_0(header)
    except Exception as error:  # NumPy parses it as Python, which raises whatever it likes
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    count = math.prod(shape)
    expected = header.tell() + count * dtype.itemsize
    if len(array.data) != expected:
        raise ValueError(f"it holds {len(array.data)} bytes where its header promises {expected}")
    flat = np.frombuffer(array.data, dtype=dtype, count=count, offset=header.tell())
    return flat.reshape(shape, order="F" if fortran_order else "C")


def records(content: RecordDict, kind: type[Record]) -> dict[str, Record]:
    """Return the records of one kind by name.

    Flower's own ``content.array_records`` builds a reference cycle, and with it the whole model stays in
    memory until Python's cyclic collector happens to run: thirteen of twenty replies were alive at once when
    measured.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def specs(arrays: ArrayRecord) -> dict[str, ArraySpec]:
    """Return name to shape and dtype for every array, in the record's order."""
    found = {}
    for name, array in arrays.items():
        values = view(array)
        found[name] = ArraySpec(values.shape, values.dtype)
    return found


def is_averaged(spec: ArraySpec) -> bool:
    """Return whether a strategy may average the array: floating point, yes; counters and masks, no."""
    return spec.dtype.kind in INEXACT


def averaged_specs(model: Mapping[str, ArraySpec], around: frozenset[str]) -> dict[str, ArraySpec]:
    """Return the arrays that a strategy sees, in the model's order; those in ``around`` go around it."""
    return {name: spec for name, spec in model.items() if is_averaged(spec) and name not in around}


def averaged(arrays: ArrayRecord, expected: Mapping[str, ArraySpec]) -> ArrayRecord:
    """Return a record of the arrays that a strategy averages; the values are shared, not copied."""
    chosen = ArrayRecord()
    for name, spec in expected.items():
        if is_averaged(spec):
            chosen[name] = arrays[name]
    return chosen


def merged(floats: ArrayRecord, others: Mapping[str, Array], order: Mapping[str, ArraySpec]) -> ArrayRecord:
    """Return one record in the order of ``order``, from the averaged arrays and the carried ones."""
    record = ArrayRecord()
    for name in order:
        record[name] = others[name] if name in others else floats[name]
    return record
