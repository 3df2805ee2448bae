"""DICOM files: told by their mark, and opened for the elements that are asked for and no others.

pydicom is an extra (``fedderm[dicom]``) and imported with the first file. What it says of a damaged file is
never passed on: its words repeat values, and a length gone wrong makes a neighbour's value part of one.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sites.errors import ImageUnreadable, SiteError, out_of_reach

if TYPE_CHECKING:
    from pydicom import Dataset

DICOM_SUFFIXES: Final = frozenset({".dcm", ".dicom"})

_MARK: Final = (128, b"DICM")  # PS3.10, 7.1


def begins_as_dicom(path: Path | str) -> bool:
    """Return whether the file bears DICOM's mark, whatever it is called; not, where it cannot be read."""
    offset, mark = _MARK
    try:
        with Path(path).open("rb") as file:
            return file.read(offset + len(mark))[offset:] == mark
    except OSError:
        return False


def read_elements(path: Path, keywords: Sequence[str] | None, pixels: bool = False) -> "Dataset":
    """Return a DICOM file's elements of these names, or all (None), without its ``pixels`` or with them.

    Raises ImageUnreadable where the header is damaged, SiteError where pydicom is not installed.
    """
    dcmread = _pydicom(path).dcmread
    wanted = None if keywords is None else list(keywords)
    with judged(path, "its DICOM header cannot be read"):
        found: Dataset = dcmread(path, stop_before_pixels=not pixels, specific_tags=wanted)
    return found


@contextmanager
def judged(path: Path, fault: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file's content into ImageUnreadable, with ``fault`` for the reason.

    pydicom judges an element when it is first looked at, and it and its decoders raise all there is, bare
    Exceptions of their own included.
    """
    try:
        yield
    except (MemoryError, SiteError):
        raise
    except OSError as error:
        raise out_of_reach(path, error) from None
    except Exception:
        raise ImageUnreadable(f"{path}: truncated or damaged: {fault}; export it again") from None


@lru_cache(maxsize=1)
def _quiet_pydicom() -> Any:
    import pydicom

    # Its warnings repeat values, too; a filter alone would not outlive somebody's catch_warnings.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pydicom")
    return pydicom


def _pydicom(path: Path) -> Any:
    try:
        return _quiet_pydicom()
    except ImportError as error:
        raise SiteError(
            f'{path}: is a DICOM file, and pydicom is not installed; pip install "fedderm[dicom]"'
        ) from error
