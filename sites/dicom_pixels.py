"""DICOM photographs to RGB pixels, and to nothing else.

Read are the elements that describe pixels, by a list, and of these numbers and known words only: no name,
number, date or device of a header ever becomes part of the result, of a cache or of a sentence. PS3.3
C.7.6.3 (Image Pixel), A.32.4 (VL Photographic), A.32.11 (Dermoscopic Photography), A.8 (Secondary Capture).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from sites.dicom import judged, read_elements
from sites.errors import ImageUnreadable

if TYPE_CHECKING:
    from pydicom import Dataset

_PHOTOGRAPHS: Final = {
    "1.2.840.10008.5.1.4.1.1.77.1.4": "VL Photographic Image",
    "1.2.840.10008.5.1.4.1.1.77.1.7": "Dermoscopic Photography Image",
}
_CAPTURES: Final = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.4")
"""Secondary Capture, also multi-frame: a screen's content, of skin only where it is in colour."""
_MONOCHROME: Final = ("MONOCHROME1", "MONOCHROME2")
_COLOURS: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
_DESCRIBING: Final = (
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
)
_PIXELS: Final = (
    "PixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
)


def read_dicom(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    """Return the RGB pixels, `(H, W, 3)` uint8, of a DICOM photograph of skin.

    Dermoscopic and VL photographs, and secondary captures in colour; one frame. RGB, YBR, palette and grey
    become RGB; samples of more than 8 bits are scaled by their depth, never stretched to their own range;
    MONOCHROME1 is inverted; ICC profiles, windows and overlays are not applied. Raises ImageUnreadable for
    anything else, for text burned into the pixels, for a face, and for a damaged file; SiteError where
    pydicom is not installed.
    """
    about = _Description.of(path)
    if refusal := about.refusal():
        raise ImageUnreadable(f"{path}: {refusal}")
    if about.rows * about.columns > max_pixels:
        raise ImageUnreadable(f"{path}: more than {max_pixels / 1e6:.0f} megapixels; scale the image down")
    whole = read_elements(path, (*_DESCRIBING, *_PIXELS), pixels=True)
    with judged(path, "its pixels cannot be decoded"):
        return _to_rgb(whole, about)


@dataclass(frozen=True)
class _Description:
    """What a header says of its pixels; 0 or "" where it says nothing."""

    kind: str
    """UID of the SOP class."""
    syntax: str
    """UID of the transfer syntax."""
    photometric: str
    rows: int
    columns: int
    frames: int
    allocated: int
    stored: int
    signed: bool
    annotated: bool
    recognizable: bool

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return what a file's header says of its pixels; raises ImageUnreadable where it cannot be read."""
        header = read_elements(path, _DESCRIBING)
        with judged(path, "its DICOM header cannot be read"):
            kind = header.get("SOPClassUID", None) or header.file_meta.get("MediaStorageSOPClassUID", None)

            def number(name: str) -> int:
                return int(header.get(name, None) or 0)

            return cls(
                kind=str(kind or ""),
                syntax=str(header.file_meta.get("TransferSyntaxUID", None) or ""),
                photometric=str(header.get("PhotometricInterpretation", None) or ""),
                rows=number("Rows"),
                columns=number("Columns"),
                frames=number("NumberOfFrames"),
                allocated=number("BitsAllocated"),
                stored=number("BitsStored"),
                signed=number("PixelRepresentation") != 0,
                annotated=header.get("BurnedInAnnotation", None) == "YES",
                recognizable=header.get("RecognizableVisualFeatures", None) == "YES",
            )

    def refusal(self) -> str | None:
        """Return why these pixels are not taken, or None."""
        return self._incomplete() or self._other_kind() or self._person() or self._other_pixels()

    def _incomplete(self) -> str | None:
        said = {
            "SOPClassUID": self.kind,
            "TransferSyntaxUID": self.syntax,
            "PhotometricInterpretation": self.photometric,
            "Rows": self.rows,
            "Columns": self.columns,
            "BitsAllocated": self.allocated,
            "BitsStored": self.stored,
        }
        missing = [name for name, value in said.items() if not value]
        return f"truncated or damaged: its header has no {missing[0]}; export it again" if missing else None

    def _other_kind(self) -> str | None:
        if self.kind in _PHOTOGRAPHS:
            return None
        if self.kind in _CAPTURES:
            if self.photometric not in _MONOCHROME:
                return None
            return "is a Secondary Capture in grey, so no photograph of skin; take it out of the table"
        known = ", ".join((*_PHOTOGRAPHS.values(), "colour Secondary Capture"))
        return f"is no photograph of skin but {_name(self.kind, 'of an unknown kind')}; read are {known}"

    def _person(self) -> str | None:
        if self.annotated:
            return (
                "has text burned into its pixels (BurnedInAnnotation is YES), which may name the patient; "
                "crop it away and export the image with NO"
            )
        if self.recognizable:
            return (
                "shows who the patient is (RecognizableVisualFeatures is YES); crop it to the lesion and "
                "export it with NO"
            )
        return None

    def _other_pixels(self) -> str | None:
        if self.frames > 1:
            return (
                f"holds {self.frames} frames, and a row of the table means one image; export each as its own "
                "file"
            )
        if self.photometric not in (*_MONOCHROME, *_COLOURS):
            return "its colours are coded in a way that is not supported; export it as RGB"
        if self.allocated not in (8, 16) or not 0 < self.stored <= self.allocated or self.signed:
            sign = "signed" if self.signed else "unsigned"
            return (
                f"its samples have {self.stored} of {self.allocated} bits, {sign}; export it with 8 or 16, "
                "unsigned"
            )
        if not self._decodable():
            return (
                f"is compressed as {_name(self.syntax, 'an unknown syntax')}, for which there is no decoder "
                "here; export it uncompressed, as RLE, JPEG or JPEG 2000"
            )
        return None

    def _decodable(self) -> bool:
        from pydicom.pixels.decoders.base import get_decoder

        try:
            return get_decoder(self.syntax).is_available and (
                self.syntax != _JPEG_EXTENDED or self.stored == 8
            )
        except NotImplementedError:
            return False


def _name(uid: str, unknown: str) -> str:
    """Return what the standard calls a UID. One that it does not know may be any text."""
    from pydicom.uid import UID

    name: str = UID(uid).name
    return unknown if name == uid else name


def _to_rgb(whole: "Dataset", about: _Description) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    samples, bits = pixel_array(whole), about.stored  # YBR has become RGB
    if about.photometric == "PALETTE COLOR":
        samples, bits = apply_color_lut(samples, whole), int(whole.RedPaletteColorLookupTableDescriptor[2])
    if samples.dtype == np.uint8:  # a JPEG 2000 stream may hold fewer bits than the header says
        bits = min(bits, 8)
    levels = _eight_bits(samples, bits)
    if about.photometric == "MONOCHROME1":
        levels = 255 - levels
    if levels.ndim == 2:
        levels = np.repeat(levels[..., None], 3, axis=-1)
    if levels.shape != (about.rows, about.columns, 3):
        raise ValueError(f"expected {about.rows} x {about.columns} pixels in three colours")
    return np.ascontiguousarray(levels)


def _eight_bits(samples: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    levels = samples if bits == 8 else np.rint(samples * (255 / (2**bits - 1)))
    return np.asarray(np.clip(levels, 0, 255), dtype=np.uint8)
