"""DICOM photographs: every way of coding pixels gives the known pixels, and nothing but pixels comes out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import SECRETS, SKIN, cut, jpeg, jpeg2000, new_dataset, save
from PIL import Image
from pydicom import uid
from pydicom.dataset import FileDataset
from pydicom.pixels import convert_color_space

from sites.errors import ImageUnreadable
from sites.image_headers import read_header
from sites.images import content_hash, read_image

YBR = convert_color_space(SKIN, "RGB", "YBR_FULL")


def planar(dataset: FileDataset) -> FileDataset:
    """Return the dataset with its colours one after the other instead of pixel by pixel."""
    dataset.PlanarConfiguration = 1
    dataset.PixelData = SKIN.transpose(2, 0, 1).tobytes()
    return dataset


def rle(dataset: FileDataset) -> FileDataset:
    dataset.compress(uid.RLELossless)
    return dataset


def changed(dataset: FileDataset, **changes: Any) -> FileDataset:
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


EXACT: dict[str, Callable[[], FileDataset]] = {
    "explicit": lambda: new_dataset(SKIN),
    "implicit": lambda: new_dataset(SKIN, syntax=uid.ImplicitVRLittleEndian),
    "big endian": lambda: new_dataset(SKIN, syntax=uid.ExplicitVRBigEndian),
    "deflated": lambda: new_dataset(SKIN, syntax=uid.DeflatedExplicitVRLittleEndian),
    "planar": lambda: planar(new_dataset(SKIN)),
    "rle": lambda: rle(new_dataset(SKIN)),
    "rle labelled as not planar": lambda: changed(rle(new_dataset(SKIN)), PlanarConfiguration=0),
    "jpeg 2000, lossless": lambda: jpeg2000(SKIN),
}


@pytest.mark.parametrize("name", EXACT)
def test_lossless_codings_give_the_very_pixels(tmp_path: Path, name: str) -> None:
    pixels = read_image(save(EXACT[name](), tmp_path / "a.dcm"))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, SKIN)
    assert content_hash(pixels) == content_hash(SKIN), "the audit finds a copy in any format"


@pytest.mark.parametrize("compress", [lambda dataset: dataset, rle], ids=["uncompressed", "rle"])
def test_ybr_full_differs_by_rounding_only(
    tmp_path: Path, compress: Callable[[FileDataset], FileDataset]
) -> None:
    """Rounding to a whole Y, Cb and Cr moves blue by up to 0.5 + 1.772 / 2, which rounds to 2 at most."""
    pixels = read_image(save(compress(new_dataset(YBR, "YBR_FULL")), tmp_path / "a.dcm"))
    assert np.abs(pixels.astype(int) - SKIN).max() <= 2


def test_ybr_full_422_shares_colour_between_neighbours(tmp_path: Path) -> None:
    """Two pixels are Y1 Y2 Cb Cr; colours that come in pairs lose nothing but rounding."""
    paired = np.repeat(SKIN[:, ::2], 2, axis=1)
    ybr = convert_color_space(paired, "RGB", "YBR_FULL")
    packed = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=-1)
    dataset = new_dataset(paired, "YBR_FULL_422")
    dataset.PixelData = packed.tobytes()
    assert np.abs(read_image(save(dataset, tmp_path / "a.dcm")).astype(int) - paired).max() <= 2


@pytest.mark.parametrize("subsampling", [0, 1])
def test_jpeg_is_what_a_jpeg_file_of_the_same_picture_is(tmp_path: Path, subsampling: int) -> None:
    """Pillow's own decoding is the independent one; conversions of colour may round apart by one or two."""
    Image.fromarray(SKIN).save(tmp_path / "a.jpg", quality=95, subsampling=subsampling)
    dataset = jpeg(SKIN, "YBR_FULL_422" if subsampling else "YBR_FULL", subsampling=subsampling)
    found = read_image(save(dataset, tmp_path / "a.dcm")).astype(int)
    assert np.abs(found - read_image(tmp_path / "a.jpg")).max() <= 3
    assert np.abs(found - SKIN).mean() < 4


def test_jpeg_labelled_rgb_by_mistake_is_told_by_its_own_marker(tmp_path: Path) -> None:
    """JFIF means YCbCr; many exporters write RGB into the header all the same."""
    found = read_image(save(jpeg(SKIN, "RGB"), tmp_path / "a.dcm")).astype(int)
    assert np.abs(found - SKIN).mean() < 4


def test_jpeg_that_is_really_rgb(tmp_path: Path) -> None:
    """``keep_rgb`` writes Adobe's marker: not transformed."""
    found = read_image(save(jpeg(SKIN, "RGB", keep_rgb=True), tmp_path / "a.dcm")).astype(int)
    assert np.abs(found - SKIN).mean() < 4


def palette(bits: int) -> FileDataset:
    """Return four colours by number, levels 0, 85, 170 and 255 (times 257 with 16 bits) in mixed order."""
    levels = {"Red": [0, 85, 170, 255], "Green": [255, 0, 85, 170], "Blue": [170, 255, 0, 85]}
    dataset = new_dataset(np.array([[0, 1, 2, 3]], np.uint8), "PALETTE COLOR")
    for colour, row in levels.items():
        table = np.array(row, "<u1") if bits == 8 else np.array(row, "<u2") * np.uint16(257)
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [4, 0, bits])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", table.tobytes())
    return dataset


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colours(tmp_path: Path, bits: int) -> None:
    expected = [[0, 255, 170], [85, 0, 255], [170, 85, 0], [255, 170, 85]]
    assert read_image(save(palette(bits), tmp_path / "a.dcm"))[0].tolist() == expected


@pytest.mark.parametrize(
    ("photometric", "expected"), [("MONOCHROME2", [0, 1, 100, 255]), ("MONOCHROME1", [255, 254, 155, 0])]
)
def test_sixteen_bit_grey_is_scaled_by_its_depth(
    tmp_path: Path, photometric: str, expected: list[int]
) -> None:
    levels = np.array([[0, 257, 25_700, 65_535]], np.uint16)
    pixels = read_image(save(new_dataset(levels, photometric, 16), tmp_path / "a.dcm"))
    assert pixels.shape == (1, 4, 3)
    for channel in range(3):
        assert pixels[0, :, channel].tolist() == expected


def test_twelve_bits_of_colour_are_scaled_by_their_depth(tmp_path: Path) -> None:
    """Not stretched: the brightest sample here is half of what 12 bits say (2048 / 4095 * 255 = 127.53)."""
    samples = np.array([[[0, 1024, 2048], [2047, 16, 8]]], np.uint16)
    pixels = read_image(save(new_dataset(samples, "RGB", 12), tmp_path / "a.dcm"))
    assert pixels[0].tolist() == [[0, 64, 128], [127, 1, 0]]


def with_changes(**changes: Any) -> Callable[[Path], Path]:
    return lambda path: save(new_dataset(SKIN), path, changes)


def with_syntax(syntax: str, **changes: Any) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        dataset = jpeg(SKIN)
        dataset.file_meta.TransferSyntaxUID = syntax
        return save(dataset, path, changes)

    return write


def bytes_at(offset: int, new: bytes) -> Callable[[Path], Path]:
    """Return a writer of a file with some bytes overwritten."""

    def write(path: Path) -> Path:
        whole = save(new_dataset(SKIN), path).read_bytes()
        path.write_bytes(whole[:offset] + new + whole[offset + len(new) :])
        return path

    return write


UNUSABLE = {
    "half the pixels": (cut(new_dataset(SKIN), 0.5), "truncated or damaged"),
    "half a JPEG": (cut(jpeg(SKIN), 0.6), "truncated or damaged"),
    "half an RLE": (cut(rle(new_dataset(SKIN)), 0.6), "truncated or damaged"),
    "half a JPEG 2000": (cut(jpeg2000(SKIN), 0.4), "truncated or damaged"),
    "header only": (lambda path: (path.write_bytes(b"\0" * 128 + b"DICM"), path)[1], "damaged"),
    "noise for a header": (bytes_at(140, b"\x99" * 300), "damaged"),
    "no pixels": (with_changes(PixelData=None), "truncated or damaged"),
    "no rows": (with_changes(Rows=None), "its header has no Rows"),
    "no mark": (bytes_at(128, b"XXXX"), "called DICOM but lacks its mark"),
    "burned in": (with_changes(BurnedInAnnotation="YES"), "has text burned into its pixels"),
    "a face": (with_changes(RecognizableVisualFeatures="YES"), "shows who the patient is"),
    "two frames": (
        with_changes(NumberOfFrames=2, PixelData=SKIN.tobytes() * 2),
        "holds 2 frames, and a row of the table means one image",
    ),
    "CT": (with_changes(SOPClassUID=uid.CTImageStorage), "no photograph of skin but CT Image Storage"),
    "captured grey": (
        lambda path: save(
            new_dataset(SKIN[..., 0], "MONOCHROME2"), path, {"SOPClassUID": uid.SecondaryCaptureImageStorage}
        ),
        "is a Secondary Capture in grey",
    ),
    "signed": (with_changes(PixelRepresentation=1), "8 of 8 bits, signed"),
    "32 bits": (with_changes(BitsAllocated=32), "8 of 32 bits, unsigned"),
    "other colours": (
        with_changes(PhotometricInterpretation="HSV"),
        "its colours are coded in",
    ),
    "huge": (with_changes(Rows=65_000, Columns=65_000), "more than 80 megapixels"),
    "lossless JPEG": (with_syntax(uid.JPEGLosslessSV1), "JPEG Lossless.* no decoder here"),
    "JPEG-LS": (with_syntax(uid.JPEGLSLossless), "JPEG-LS.* no decoder here"),
    "12-bit JPEG": (
        with_syntax(uid.JPEGExtended12Bit, BitsStored=12, BitsAllocated=16),
        "JPEG Extended.* no decoder here",
    ),
    "video": (with_syntax(uid.MPEG2MPML), "MPEG2.* no decoder here"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_file_is_one_sentence_that_names_it_and_no_patient(tmp_path: Path, name: str) -> None:
    write, expected = UNUSABLE[name]
    path = write(tmp_path / "lesion.dcm")
    with pytest.raises(ImageUnreadable, match=expected) as caught:
        read_image(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert not any(secret in sentence for secret in SECRETS)


def damaged_files(folder: Path, count: int) -> Iterator[Path]:
    """Yield files cut anywhere, or with up to seven bytes of header overwritten."""
    datasets = [new_dataset(SKIN), jpeg(SKIN), jpeg2000(SKIN), rle(new_dataset(SKIN)), palette(16)]
    sound = [save(dataset, folder / "sound.dcm").read_bytes() for dataset in datasets]
    rng = np.random.default_rng(5)
    for number in range(count):
        content = bytearray(sound[number % len(sound)])
        if number % 4 == 0:
            content = content[: rng.integers(132, len(content))]
        for at in rng.integers(132, min(len(content), 2200), rng.integers(1, 8)):
            content[at] = rng.integers(0, 256)
        (folder / "x.dcm").write_bytes(content)
        yield folder / "x.dcm"


@pytest.mark.filterwarnings("always")
def test_what_is_damaged_is_one_sentence_without_a_word_of_the_header(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """A wrong length makes a neighbour's value part of another element, which pydicom's own words repeat."""
    told = []
    for path in damaged_files(tmp_path, 300):
        for read in (read_image, read_header):
            try:
                read(path)
            except ImageUnreadable as error:
                told.append(str(error))
    assert len(told) > 50
    assert all(len(sentence) < 400 and "\n" not in sentence for sentence in told)
    told += [str(warning.message) for warning in recwarn]
    assert not [sentence for sentence in told if any(secret in sentence for secret in SECRETS)]
