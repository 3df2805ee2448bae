"""Headers of image files: sizes and kinds of identifiers, and never a value of one."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dicom_files import SECRETS, new_dataset, save
from PIL import ExifTags, Image, PngImagePlugin
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from site_images import lesion_image

from sites.errors import ImageUnreadable
from sites.image_headers import read_header
from sites.personal_columns import date_ranges, personal_columns

SKIN = lesion_image(3, 60, 80)
PICTURE = Image.fromarray(SKIN)
BASE = ExifTags.Base


@pytest.mark.parametrize(
    ("tag", "value", "kind"),
    [
        (BASE.Artist, "Z. Quixworth", "names"),
        (BASE.DateTime, "2024:03:17 10:00:00", "dates"),
        (BASE.ImageDescription, "left arm", "free texts"),
    ],
)
def test_an_exif_entry_is_told_by_its_kind(tmp_path: Path, tag: int, value: str, kind: str) -> None:
    exif = Image.Exif()
    exif[tag] = value
    for name in ("a.jpg", "a.tiff"):
        PICTURE.save(tmp_path / name, exif=exif)
        header = read_header(tmp_path / name)
        assert header.carries == {kind}
        assert (header.width, header.height) == (80, 60)


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        (BASE.BodySerialNumber, "device numbers"),
        (BASE.DateTimeOriginal, "dates"),
        (BASE.UserComment, "free texts"),
        (BASE.MakerNote, "private elements"),
    ],
)
def test_entries_of_the_camera_are_looked_for_below_the_first_level(
    tmp_path: Path, tag: int, kind: str
) -> None:
    exif = Image.Exif()
    text = "SN-55231"
    exif.get_ifd(ExifTags.IFD.Exif)[tag] = text.encode() if kind != "device numbers" else text
    PICTURE.save(tmp_path / "a.jpg", exif=exif)
    assert read_header(tmp_path / "a.jpg").carries == {kind}


def test_a_position_a_comment_and_a_text_chunk(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 12.0, 30.0)
    PICTURE.save(tmp_path / "gps.jpg", exif=exif)
    assert read_header(tmp_path / "gps.jpg").carries == {"GPS positions"}
    PICTURE.save(tmp_path / "comment.jpg", comment=b"Quixworth")
    assert read_header(tmp_path / "comment.jpg").carries == {"free texts"}
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("Title", "Quixworth")
    PICTURE.save(tmp_path / "text.png", pnginfo=chunk)
    assert read_header(tmp_path / "text.png").carries == {"free texts"}


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tiff", "a.bmp"])
def test_plain_files_and_blank_entries_carry_nothing(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[BASE.Artist] = "   "
    options: dict[str, Any] = {} if name == "a.bmp" else {"exif": exif}
    PICTURE.save(tmp_path / name, **options)
    assert not read_header(tmp_path / name).carries


def bare() -> Any:
    """Return a DICOM photograph without any of the helper's identifiers."""
    dataset = new_dataset(SKIN)
    kept = ("PixelData", "SOPClassUID", "SOPInstanceUID")
    for element in list(dataset):
        if element.tag.group != 0x0028 and element.keyword not in kept:
            del dataset[element.tag]
    return dataset


def inside(keyword: str, value: str) -> Sequence:
    item = Dataset()
    setattr(item, keyword, value)
    return Sequence([item])


@pytest.mark.parametrize(
    ("keyword", "value", "kind"),
    [
        ("PatientName", "Quixworth^Z", "names"),
        ("PatientID", "77120983", "patient numbers"),
        ("AccessionNumber", "4711", "patient numbers"),
        ("PatientBirthDate", "19470228", "dates"),
        ("AcquisitionDateTime", "20240317101500", "dates"),
        ("DeviceSerialNumber", "55231", "device numbers"),
        ("StationName", "ROOM7", "device numbers"),
        ("InstitutionName", "Frobisher", "institutions and addresses"),
        ("ImageComments", "left arm", "free texts"),
        ("ReferringPhysicianIdentificationSequence", inside("PersonName", "Vasilakis"), "names"),
    ],
)
def test_a_dicom_element_is_told_by_its_kind(tmp_path: Path, keyword: str, value: Any, kind: str) -> None:
    assert not read_header(save(bare(), tmp_path / "a.dcm")).carries
    header = read_header(save(bare(), tmp_path / "b.dcm", {keyword: value}))
    assert header.carries == {kind}
    assert (header.width, header.height) == (80, 60)


def test_private_elements_and_all_kinds_at_once(tmp_path: Path) -> None:
    dataset = bare()
    dataset.private_block(0x0009, "MAKER", create=True).add_new(0x01, "LO", "Quixworth")
    assert read_header(save(dataset, tmp_path / "a.dcm")).carries == {"private elements"}
    header = read_header(save(new_dataset(SKIN), tmp_path / "b.dcm"))
    assert header.carries == {
        "names",
        "patient numbers",
        "institutions and addresses",
        "dates",
        "device numbers",
        "free texts",
        "private elements",
    }
    assert not any(secret in repr(header) for secret in SECRETS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("quixworth_2.dcm", True), ("x-mrn-77120983.dcm", True), ("IM0001", False), ("1.2.840.7712", False)],
)
def test_files_named_after_their_patient(tmp_path: Path, name: str, expected: bool) -> None:
    assert read_header(save(new_dataset(SKIN), tmp_path / name)).named_after_patient is expected


def test_a_file_without_a_header_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ImageUnreadable, match=r"text\.jpg: not an image"):
        read_header(tmp_path / "text.jpg")
    with pytest.raises(ImageUnreadable, match="no such file"):
        read_header(tmp_path / "absent.jpg")


def test_columns_that_name_people() -> None:
    table = pd.DataFrame(
        {
            "image_id": ["a", "b"],
            "patient_id": ["Quixworth, Zephyrine", "Möller, Jörg"],
            "PatientName": ["x", "y"],
            "Geburtsdatum": ["1.2.1950", "3.4.1961"],
            "e-mail": ["x", "y"],
            "file_name": ["a.jpg", "b.jpg"],
            "device": ["D1", "D2"],
            "anatom_site": ["head, neck", "arm, lower"],
            "thickness": [0.4, 1.2],
        }
    )
    assert personal_columns(table) == ["patient_id", "PatientName", "Geburtsdatum", "e-mail"]
    assert "patient_id" not in personal_columns(table.assign(patient_id=["P4", "P5"]))


def test_columns_of_dates_are_read_in_the_order_they_are_written() -> None:
    """3.4. is the third of April; one cell in five may be something else."""
    table = pd.DataFrame(
        {
            "seen": ["3.4.2021", "17.12.2020", "1.5.2021", "2.5.2021", "unknown"],
            "iso": ["2024-03-17T10:15", "2023-01-02", "20240102", "2024-01-05 8:00", np.nan],
            "number": ["4", "19", "1200", "3", "2"],
        }
    )
    found = {name: (str(a.date()), str(b.date())) for name, (a, b) in date_ranges(table).items()}
    assert found == {"seen": ("2020-12-17", "2021-05-02"), "iso": ("2023-01-02", "2024-03-17")}
