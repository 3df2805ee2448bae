"""Messages whose arrays travel in one piece.

Flower sends each array as two objects or more, each announced, pushed, stored, pulled and deleted by calls of
its own: a message of EfficientNet-Lite0, 296 arrays and 14 MB, is 600 objects, and two sites that send theirs
at once keep a SuperLink's database locked for seconds. Packed it is seven.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from strategies.arrays import NumPyArray, records, view
from strategies.grid_view import GridView

PACKED: Final = "packed"
"""The two records of a packed message: the arrays' bytes, and (``packed-layout``) what they are."""
_LAYOUT: Final = "packed-layout"
_ALIGNED: Final = 64
_KINDS: Final = "biufc"


class _Place(NamedTuple):
    """One array of a packed message: its record and name, and how its bytes are read."""

    record: str
    name: str
    dtype: str
    shape: list[int]
    offset: int

    def read(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the array, which shows the memory of ``data``; raises ValueError where it is not in it."""
        dtype = np.dtype(self.dtype)
        if dtype.kind not in _KINDS or any(side < 0 for side in self.shape) or self.offset < 0:
            raise ValueError(f"its array {self.name} is described as {self.dtype}{self.shape}")
        end = self.offset + math.prod(self.shape) * dtype.itemsize
        if end > len(data):
            raise ValueError(f"its array {self.name} ends beyond the message's bytes")
        return data[self.offset : end].view(dtype).reshape(self.shape)


def packed(content: RecordDict) -> RecordDict:
    """Return the same records with all their arrays in one; raises ValueError where one cannot be read."""
    arrays = records(content, ArrayRecord)
    return RecordDict({**_others(content, arrays), **_whole(arrays)})


def _others(content: RecordDict, arrays: Mapping[str, ArrayRecord]) -> dict[str, Any]:
    return {name: record for name, record in content.items() if name not in arrays}


def _whole(arrays: Mapping[str, ArrayRecord]) -> dict[str, ArrayRecord | ConfigRecord]:
    """Return the two records that stand for ``arrays``."""
    places: list[_Place] = []
    values: list[NDArray[Any]] = []
    end = 0
    for record, held in arrays.items():
        for name, array in held.items():
            one = view(array)
            places.append(_Place(record, name, one.dtype.str, list(one.shape), end))
            values.append(one)
            end += -(-one.nbytes // _ALIGNED) * _ALIGNED
    data = np.zeros(end, np.uint8)
    for place, one in zip(places, values, strict=True):
        place.read(data)[...] = one
    whole = ArrayRecord()
    whole["all"] = NumPyArray(data)
    layout = ConfigRecord({"layout": json.dumps({"records": list(arrays), "arrays": places})})
    return {PACKED: whole, _LAYOUT: layout}


def is_packed(content: RecordDict) -> bool:
    """Return whether these records are packed ones."""
    return PACKED in content and _LAYOUT in content


def unpacked(content: RecordDict) -> RecordDict:
    """Return the records that were ``packed``; their arrays show the message's memory, read-only.

    Raises ValueError where the layout is none, or is not that of the bytes: it comes from another machine.
    """
    whole, layout = content[PACKED], content[_LAYOUT]
    if not isinstance(whole, ArrayRecord) or not isinstance(layout, ConfigRecord) or "all" not in whole:
        raise ValueError("it is packed in another way; both sides must run the same version of fedderm")
    data = view(whole["all"])
    try:
        told = json.loads(str(layout["layout"]))
        places = [_Place(*one) for one in told["arrays"]]
        found: dict[str, ArrayRecord] = {str(name): ArrayRecord() for name in told["records"]}
        for place in places:
            if place.name in found[place.record]:
                raise ValueError(f"its array {place.name} is described twice")
            found[place.record][place.name] = NumPyArray(place.read(data))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"what it says of its arrays cannot be read ({error})") from error
    others = {name: record for name, record in content.items() if name not in (PACKED, _LAYOUT)}
    return RecordDict({**found, **others})


class PackedGrid(GridView):
    """A grid over a network, through which messages go packed and replies come back as they were."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._sent: dict[str, ArrayRecord] = {}
        self._packed: dict[str, ArrayRecord | ConfigRecord] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send the messages packed; one model that goes to many sites is packed, and hashed, once."""
        sent = []
        for message in messages:
            arrays = records(message.content, ArrayRecord)
            if not _same(arrays, self._sent):
                self._sent, self._packed = arrays, _whole(arrays)
            message.content = RecordDict({**_others(message.content, arrays), **self._packed})
            sent.append(message)
        return super().push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies; one that cannot be unpacked stays as it is, and its readers refuse it."""
        self._sent, self._packed = {}, {}  # all have been sent: no model is kept for their sake
        replies = []
        for reply in super().pull_messages(message_ids):
            if reply.has_content() and is_packed(reply.content):
                with contextlib.suppress(ValueError):
                    reply.content = unpacked(reply.content)
            replies.append(reply)
        return replies


def _same(some: Mapping[str, ArrayRecord], others: Mapping[str, ArrayRecord]) -> bool:
    """Return whether these are the very same records."""
    return bool(some) and some.keys() == others.keys() and all(some[name] is others[name] for name in some)
