"""The counts of a run's sites in one file, ``evaluation/counts.npz``: what the threshold explorer reads."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedderm.evaluation.counts import Counts
from fedderm.whole_file import write_whole


def write_counts(path: Path, counts: Mapping[str, Counts]) -> None:
    """Write counts by key (``<site>/<split>``), whole or not at all.

    Raises ValueError for a key without both parts and OSError where the disk refuses.
    """
    for key in counts:
        site, _, split = key.rpartition("/")
        if not site or not split:
            raise ValueError(f"{path}: counts need a key like site/split, found {key!r}")
    arrays = {key: one.to_array() for key, one in counts.items()}
    stream = io.BytesIO()
    # NumPy takes the keys as keyword arguments; its stubs know only the two that have a meaning.
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    write_whole(path, stream.getvalue())


def read_counts(path: Path) -> dict[str, Counts]:
    """Return what ``write_counts`` wrote. Raises ValueError, one sentence, for a damaged or strange file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: Counts.from_array(archive[key]) for key in archive.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        found = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as the counts of a run's sites ({found}).") from error
