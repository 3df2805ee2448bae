"""DICOM files to RGB pixels, and to nothing else.

Read are the elements that describe pixels, by a list: no name, number, date or device of a header ever
becomes part of the result, of a cache or of a sentence. PS3.3 C.7.6.3 (Image Pixel), A.32.4 (VL
Photographic), A.32.11 (Dermoscopic Photography), A.8 (Secondary Capture).
"""

import logging
import struct
import warnings
import zlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from sites.errors import ImageUnreadable, SiteError, out_of_reach

if TYPE_CHECKING:
    from pydicom import Dataset

DICOM_SUFFIXES: Final = frozenset({".dcm", ".dicom"})

_MARK: Final = (128, b"DICM")  # PS3.10, 7.1
_PHOTOGRAPHS: Final = {
    "1.2.840.10008.5.1.4.1.1.77.1.4": "VL Photographic Image",
    "1.2.840.10008.5.1.4.1.1.77.1.7": "Dermoscopic Photography Image",
}
_CAPTURES: Final = {
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image",
    "1.2.840.10008.5.1.4.1.1.7.4": "Multi-frame True Color Secondary Capture Image",
}
"""A screen's content: of skin only where it is in colour."""
_MONOCHROME: Final = ("MONOCHROME1", "MONOCHROME2")
_COLOURS: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
_ELEMENTS: Final = (
    "SOPClassUID",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "BurnedInAnnotation",
    "RecognizableVisualFeatures",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
)
_PIXELS: Final = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
# What pydicom and its decoders raise for a file that is not as it should be.
BROKEN: Final = (
    AttributeError,
    ValueError,
    RuntimeError,
    TypeError,
    LookupError,
    EOFError,
    AssertionError,
    struct.error,
    zlib.error,
)


def begins_as_dicom(path: Path | str) -> bool:
    """Return whether the file bears DICOM's mark, whatever it is called. A file that cannot be read does
    not."""
    offset, mark = _MARK
    try:
        with Path(path).open("rb") as file:
            return file.read(offset + len(mark))[offset:] == mark
    except OSError:
        return False


def read_dicom(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    """Return the RGB pixels, `(H, W, 3)` uint8, of a DICOM photograph of skin.

    Dermoscopic and VL photographs, and secondary captures in colour; one frame. RGB, YBR, palette and grey
    become RGB; samples of more than 8 bits are scaled by their depth, never stretched to their own range;
    MONOCHROME1 is inverted; ICC profiles, windows and overlays are not applied. Raises ImageUnreadable for
    anything else, for text burned into the pixels, for a face, and for a damaged file; SiteError where
    pydicom is not installed.
    """
    header = read_elements(path, _ELEMENTS)
    for refused in (_other_kind, _person_in_pixels, _other_pixels, _other_syntax):
        if sentence := refused(header):
            raise ImageUnreadable(f"{path}: {sentence}")
    if header.Rows * header.Columns > max_pixels:
        raise ImageUnreadable(f"{path}: more than {max_pixels / 1e6:.0f} megapixels; scale the image down")
    whole = read_elements(path, (*_ELEMENTS, *_PIXELS), pixels=True)
    try:
        return _to_rgb(_samples(whole), header)
    except BROKEN as error:
        raise _damaged(path, error) from None


def read_elements(path: Path, keywords: tuple[str, ...] | None, pixels: bool = False) -> "Dataset":
    """Return a DICOM file's elements of these names, or all (None), without its ``pixels`` or with them.

    Raises ImageUnreadable where the header is damaged, SiteError where pydicom is not installed.
    """
    dcmread = _pydicom(path).dcmread
    wanted = None if keywords is None else list(keywords)
    try:
        found: Dataset = dcmread(path, stop_before_pixels=not pixels, specific_tags=wanted)
    except OSError as error:
        raise out_of_reach(path, error) from None
    except BROKEN:  # its words may repeat the header's
        raise ImageUnreadable(f"{path}: its DICOM header is damaged; export it again") from None
    return found


@lru_cache(maxsize=1)
def _quiet_pydicom() -> Any:
    """Return pydicom, told not to warn: its warnings repeat what stands in headers."""
    import pydicom

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


def _other_kind(header: "Dataset") -> str | None:
    meta = header.file_meta
    uid = str(header.get("SOPClassUID", None) or meta.get("MediaStorageSOPClassUID", None) or "")
    if not uid:
        return _without("SOPClassUID")
    if uid in _PHOTOGRAPHS:
        return None
    if uid in _CAPTURES:
        if header.get("PhotometricInterpretation") not in _MONOCHROME:
            return None
        return "is a Secondary Capture in grey, so no photograph of skin; take it out of the table"
    from pydicom.uid import UID

    known = ", ".join((*_PHOTOGRAPHS.values(), "colour Secondary Capture"))
    return f"is no photograph of skin but {UID(uid).name}; read are {known}"


def _person_in_pixels(header: "Dataset") -> str | None:
    if header.get("BurnedInAnnotation") == "YES":
        return (
            "has text burned into its pixels (BurnedInAnnotation is YES), which may name the patient; crop "
            "it away and export the image with NO"
        )
    if header.get("RecognizableVisualFeatures") == "YES":
        return (
            "shows who the patient is (RecognizableVisualFeatures is YES); crop it to the lesion and export "
            "it with NO"
        )
    return None


def _other_pixels(header: "Dataset") -> str | None:
    missing = [
        name
        for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation")
        if not header.get(name)
    ]
    if missing:
        return _without(missing[0])
    if (frames := int(header.get("NumberOfFrames", None) or 1)) > 1:
        return f"holds {frames} frames, and a row of the table means one image; export each as its own file"
    photometric = header.PhotometricInterpretation
    if photometric not in (*_MONOCHROME, *_COLOURS):
        return f"its colours are coded as {photometric}; export it as RGB"
    if header.BitsAllocated not in (8, 16) or header.get("PixelRepresentation", 0) != 0:
        sign = "signed" if header.get("PixelRepresentation", 0) else "unsigned"
        return f"its samples have {header.BitsAllocated} bits, {sign}; export it with 8 or 16 bits, unsigned"
    return None


def _other_syntax(header: "Dataset") -> str | None:
    from pydicom.pixels.decoders.base import get_decoder

    syntax = header.file_meta.get("TransferSyntaxUID", None)
    if syntax is None:
        return _without("TransferSyntaxUID")
    try:
        readable = get_decoder(syntax).is_available
    except NotImplementedError:
        readable = False
    if readable and (syntax != _JPEG_EXTENDED or header.BitsStored == 8):
        return None
    return (
        f"is compressed as {syntax.name}, for which there is no decoder here; export it uncompressed, as "
        "RLE, JPEG or JPEG 2000"
    )


def _without(element: str) -> str:
    return f"truncated or damaged (its header has no {element}); export it again"


def _samples(whole: "Dataset") -> NDArray[Any]:
    """Return the only frame's samples, `(H, W)` or `(H, W, 3)`; YBR has become RGB."""
    from pydicom.pixels.utils import pixel_array

    return pixel_array(whole)


def _to_rgb(samples: NDArray[Any], header: "Dataset") -> NDArray[np.uint8]:
    bits = int(header.BitsStored)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        samples, bits = apply_color_lut(samples, header), int(header.RedPaletteColorLookupTableDescriptor[2])
    if samples.dtype == np.uint8:  # a JPEG 2000 stream may hold fewer bits than the header says
        bits = min(bits, 8)
    levels = _eight_bits(samples, bits)
    if header.PhotometricInterpretation == "MONOCHROME1":
        levels = 255 - levels
    return np.ascontiguousarray(np.repeat(levels[..., None], 3, axis=-1) if levels.ndim == 2 else levels)


def _eight_bits(samples: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    levels = samples if bits == 8 else np.rint(samples * (255 / (2**bits - 1)))
    return np.asarray(np.clip(levels, 0, 255), dtype=np.uint8)


def _damaged(path: Path, error: Exception) -> ImageUnreadable:
    words = " ".join(str(error).split())
    reason = words if len(words) <= 160 else f"{words[:160]} ..."
    return ImageUnreadable(f"{path}: truncated or damaged ({reason}); export it again")
