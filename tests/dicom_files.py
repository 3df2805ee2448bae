"""Real DICOM files for tests, each with a patient in its header whom nothing must ever name again."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DermoscopicPhotographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    generate_uid,
)
from site_images import lesion_image

SKIN = lesion_image(3, 60, 80)
SECRETS = (
    "Zephyrine^Quixworth",
    "MRN-77120983",
    "19470229",
    "Frobisher Clinic",
    "SN-DERMA-55231",
    "20240317",
    "Orlando^Privatevendor",
    "Vasilakis^Referring",
    "Accession-4711-X",
    "Notes about Quixworth",
)
"""Every text that ``identified`` hides in a header."""


def identified(dataset: Dataset) -> Dataset:
    """Return the dataset with patient, physician, dates, institution, device and private elements."""
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = SECRETS[:3]
    dataset.InstitutionName, dataset.DeviceSerialNumber, dataset.AcquisitionDate = SECRETS[3:6]
    private = dataset.private_block(0x0009, "FROBISHER VIEWER", create=True)
    private.add_new(0x01, "PN", SECRETS[6])
    inner = Dataset()
    inner.PersonName = SECRETS[7]
    dataset.ReferringPhysicianIdentificationSequence = Sequence([inner])
    dataset.AccessionNumber, dataset.ImageComments = SECRETS[8:10]
    return dataset


def new_dataset(
    pixels: NDArray[Any], photometric: str = "RGB", bits: int = 8, syntax: str = ExplicitVRLittleEndian
) -> FileDataset:
    """Return an uncompressed dermoscopic photograph of `(H, W)` or `(H, W, 3)` samples."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = DermoscopicPhotographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    little = syntax != ExplicitVRBigEndian
    dataset = FileDataset(None, {}, preamble=b"\0" * 128, file_meta=meta, is_little_endian=little)
    dataset.SOPClassUID = DermoscopicPhotographyImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = "DMS"
    identified(dataset)
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.PixelRepresentation = 0
    dataset.BurnedInAnnotation = "NO"
    raw = pixels.astype("<u1" if bits <= 8 else "<u2").tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB" if bits <= 8 else "OW"
    return dataset


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(pixels: NDArray[np.uint8], photometric: str = "YBR_FULL_422", **options: Any) -> FileDataset:
    """Return a photograph whose only frame is a JPEG, with the patient in the JPEG's own comment, too."""
    stream = encoded(Image.fromarray(pixels), "JPEG", quality=95, comment=SECRETS[9].encode(), **options)
    return _encapsulated(pixels, stream, photometric, JPEGBaseline8Bit)


def jpeg2000(pixels: NDArray[np.uint8]) -> FileDataset:
    """Return a photograph whose only frame is a lossless JPEG 2000 stream."""
    stream = encoded(Image.fromarray(pixels), "JPEG2000", no_jp2=True, irreversible=False, mct=1)
    return _encapsulated(pixels, stream, "YBR_RCT", JPEG2000Lossless)


def _encapsulated(pixels: NDArray[np.uint8], stream: bytes, photometric: str, syntax: str) -> FileDataset:
    dataset = new_dataset(pixels, photometric)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def save(dataset: FileDataset, path: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write the dataset as a DICOM file and return its path; ``changes`` are set first, None removes."""
    for name, value in (changes or {}).items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def cut(dataset: FileDataset, kept: float) -> Callable[[Path], Path]:
    """Return a writer of the first part of the file."""

    def write(path: Path) -> Path:
        whole = save(dataset, path).read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])
        return path

    return write
