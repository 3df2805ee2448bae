"""What image files say beside their pixels: their size, and which kinds of identifiers they carry.

Kinds, never values: nothing here returns, keeps or prints a name, a number or a date. DICOM elements are
judged by their value representation (PS3.5, 6.2: PN is a person's name, DA and DT are dates) and, where that
says nothing, by their keyword; the list to remove is PS3.15's, table E.1-1, which is longer.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from PIL import ExifTags, Image, UnidentifiedImageError

from sites.dicom import begins_as_dicom, judged, read_elements
from sites.errors import out_of_reach
from sites.images import BROKEN_FILE, FORMATS, check_file, unknown_kind

if TYPE_CHECKING:
    from pydicom import Dataset

Kind = Literal[
    "names",
    "patient numbers",
    "institutions and addresses",
    "dates",
    "device numbers",
    "GPS positions",
    "free texts",
    "private elements",
]

_BASE = ExifTags.Base
_EXIF: Final[dict[int, Kind]] = {
    _BASE.Artist: "names",
    _BASE.Copyright: "names",
    _BASE.XPAuthor: "names",
    _BASE.CameraOwnerName: "names",
    _BASE.DateTime: "dates",
    _BASE.DateTimeOriginal: "dates",
    _BASE.DateTimeDigitized: "dates",
    _BASE.BodySerialNumber: "device numbers",
    _BASE.LensSerialNumber: "device numbers",
    _BASE.CameraSerialNumber: "device numbers",
    _BASE.HostComputer: "device numbers",
    _BASE.MakerNote: "private elements",
    _BASE.ImageDescription: "free texts",
    _BASE.UserComment: "free texts",
    _BASE.XPTitle: "free texts",
    _BASE.XPComment: "free texts",
    _BASE.XPSubject: "free texts",
    _BASE.XPKeywords: "free texts",
}
_INFO: Final = ("comment", "photoshop", "xmp", "XML:com.adobe.xmp", "Raw profile type iptc")
"""Where JPEG, TIFF and PNG keep comments, IPTC and XMP, as Pillow calls it."""
_REPRESENTATIONS: Final[dict[str, Kind]] = {
    "PN": "names",
    "DA": "dates",
    "DT": "dates",
    "LT": "free texts",
    "ST": "free texts",
    "UT": "free texts",
}
_KEYWORDS: Final[tuple[tuple[str, Kind], ...]] = (
    (r"^(Other)?PatientIDs?$|^(AccessionNumber|StudyID|AdmissionID)$", "patient numbers"),
    (r"SerialNumber|^(DeviceUID|DeviceID|DetectorID|PlateID|GantryID|StationName)$", "device numbers"),
    (r"^Institution|Address|Telephone|^CountryOfResidence|^RegionOfResidence", "institutions and addresses"),
    (r"^(ImageComments|StudyDescription|SeriesDescription|PatientComments|Occupation)$", "free texts"),
)
_SHORTEST_NAME: Final = 4  # letters of a name or number that a file's name may hold by chance


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image file without decoding it."""

    width: int
    height: int
    """Pixels, before a rotation that EXIF asks for."""
    carries: frozenset[Kind]
    named_after_patient: bool
    """Whether the file's name holds the patient's name or number of its own DICOM header."""


def read_header(path: Path | str) -> ImageHeader:
    """Return what an image file's header says; raises ImageUnreadable where it has none of ours.

    Raises SiteError for a DICOM file where pydicom is not installed.
    """
    path = Path(path)
    check_file(path)
    if begins_as_dicom(path):
        return _of_dicom(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            return ImageHeader(*image.size, frozenset(_kinds_of_picture(image)), False)
    except UnidentifiedImageError:
        raise unknown_kind(path) from None
    except (OSError, *BROKEN_FILE) as error:
        raise out_of_reach(path, error) from None


def _of_dicom(path: Path) -> ImageHeader:
    dataset = read_elements(path, None)
    with judged(path, "its DICOM header cannot be read"):
        width, height = (int(dataset.get(name, None) or 0) for name in ("Columns", "Rows"))
        return ImageHeader(width, height, frozenset(_kinds_in(dataset)), _named_after_patient(path, dataset))


def _kinds_of_picture(image: Image.Image) -> Iterator[Kind]:
    exif = image.getexif()
    if exif.get_ifd(ExifTags.IFD.GPSInfo):
        yield "GPS positions"
    for tags in (exif, exif.get_ifd(ExifTags.IFD.Exif)):
        yield from (kind for tag, kind in _EXIF.items() if _says_something(tags, tag))
    texts: Mapping[str, str] = getattr(image, "text", {})  # of a PNG
    if texts or any(image.info.get(key) for key in _INFO):
        yield "free texts"


def _says_something(tags: Mapping[int, Any], tag: int) -> bool:
    value = tags.get(tag)
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return bool(text.strip("\0 "))


def _kinds_in(dataset: "Dataset") -> Iterator[Kind]:
    """Yield the kinds of identifiers of a header, those in its sequences, too."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            inner = list(element.value) if element.VR == "SQ" else []
        except Exception:  # one value that breaks its own rules does not hide the others
            continue
        for item in inner:
            yield from _kinds_in(item)
        if element.VR == "SQ" or element.is_empty or not str(element.value).strip():
            continue
        if element.tag.is_private:
            if not element.tag.is_private_creator:
                yield "private elements"
        elif element.VR in _REPRESENTATIONS:
            yield _REPRESENTATIONS[element.VR]
        else:
            yield from (kind for pattern, kind in _KEYWORDS if re.search(pattern, element.keyword))


def _named_after_patient(path: Path, dataset: "Dataset") -> bool:
    patient = f"{dataset.get('PatientName', '')}^{dataset.get('PatientID', '')}".casefold()
    words = [word for word in re.split(r"[\^=,\s]+", patient) if len(word) >= _SHORTEST_NAME]
    return any(word in path.name.casefold() for word in words)
