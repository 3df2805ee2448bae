"""DICOM photographs: every way of coding pixels gives the known pixels, and nothing but pixels comes out."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import fedderm, process, write_config
from dicom_files import SECRETS, jpeg, jpeg2000, new_dataset, save
from PIL import Image
from pydicom import uid
from pydicom.dataset import FileDataset
from pydicom.pixels import convert_color_space
from site_images import lesion_image, site_data

from sites.cache import PixelSettings, open_cache
from sites.dicom import begins_as_dicom
from sites.errors import ImageUnreadable
from sites.folder import FolderSite
from sites.image_headers import read_header
from sites.images import content_hash, read_image

SKIN = lesion_image(3, 60, 80)
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


def cut(dataset: FileDataset, kept: float) -> Callable[[Path], Path]:
    """Return a writer of the first part of the file."""

    def write(path: Path) -> Path:
        whole = save(dataset, path).read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])
        return path

    return write


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


def test_colour_screens_and_vl_photographs_are_taken(tmp_path: Path) -> None:
    for kind in (
        uid.SecondaryCaptureImageStorage,
        uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
        uid.VLPhotographicImageStorage,
    ):
        path = save(new_dataset(SKIN), tmp_path / "a.dcm", {"SOPClassUID": kind})
        np.testing.assert_array_equal(read_image(path), SKIN)


def test_content_tells_dicom_whatever_the_name(tmp_path: Path) -> None:
    path = save(new_dataset(SKIN), tmp_path / "actually_dicom.jpg")
    np.testing.assert_array_equal(read_image(path), SKIN)
    Image.fromarray(SKIN).save(tmp_path / "b.png")
    assert begins_as_dicom(path)
    assert not begins_as_dicom(tmp_path / "b.png")
    assert not begins_as_dicom(tmp_path / "absent")


NAMES = ("IM0001", "1.2.840.99.17", "sub/c.DCM", "d.dicom")


def dicom_clinic(root: Path, count: int = 12) -> Path:
    """Return a hospital's folder of DICOM files and its table: two in three without a suffix."""
    folder = root / "clinic"
    folder.mkdir(parents=True)
    lines = ["image_id,lesion_id,diagnosis"]
    for row in range(count):
        name = (f"IM{row:04d}", f"1.2.840.99.{row}", f"c{row}.DCM")[row % 3]
        save(new_dataset(lesion_image(row, 50, 60)), folder / name)
        lines.append(f"{name},L{row},{'mel' if row < 5 else 'nv'}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copy(folder / "IM0000", folder / "DICOMDIR")
    (folder / "notes").write_text("no image")
    return folder


def test_a_folder_site_finds_dicom_files_without_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        save(new_dataset(SKIN), tmp_path / name)
    (tmp_path / "notes").write_text("IM0002")
    (tmp_path / "t.csv").write_text("image_id,diagnosis\nIM0001,nv\n1.2.840.99.17,nv\nc,mel\nd.dicom,nv\n")
    site = FolderSite(name="clinic", source="folder", path=tmp_path)
    raw = site.read(None, tmp_path / "work", 0)
    assert [Path(path).relative_to(tmp_path).as_posix() for path in raw["path"]] == list(NAMES)
    assert raw["image_id"].tolist() == ["IM0001", "1.2.840.99.17", "c", "d"]


def test_cache_holds_the_pixels_and_no_word_of_a_header(tmp_path: Path) -> None:
    """Also of files that could not be used: their reasons are kept beside the pixels."""
    folder = dicom_clinic(tmp_path)
    save(new_dataset(SKIN), folder / "burned", {"BurnedInAnnotation": "YES"})
    cut(new_dataset(SKIN), 0.5)(folder / "half")
    files = sorted(path for path in folder.iterdir() if begins_as_dicom(path))
    assert all(any(s.encode() in path.read_bytes() for s in SECRETS) for path in files)
    data = site_data(folder, files=files, max_unreadable=0.5)
    cache = open_cache(data, PixelSettings(image_size=32), tmp_path / "work")
    assert len(cache.table) == len(files) - 2
    assert set(cache.set_aside["image_id"]) == {"burned", "half"}
    assert cache.fingerprints["content"].iloc[0] == content_hash(read_image(cache.table["path"].iloc[0]))
    assert_nothing_of_a_header(tmp_path / "work")


def assert_nothing_of_a_header(folder: Path) -> None:
    """Look for every hidden text in every file below ``folder``, and in the files' names."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        found = [s for s in SECRETS if s.encode() in content or s.encode("utf-16-le") in content]
        assert not found, f"{path} holds {found}"
        assert not any(secret in str(path.relative_to(folder)) for secret in SECRETS)


@pytest.mark.slow
def test_a_run_over_dicom_sites_leaves_no_word_of_a_header(tmp_path: Path) -> None:
    """A whole run: caches, checkpoints, gallery, tables, report and papers."""
    from federations import new_run, run_in_memory

    folder = dicom_clinic(tmp_path, 40)
    held_out = {
        "name": "away",
        "source": "folder",
        "path": str(folder),
        "role": "held-out",
        "slice": {"index": 1, "of": 2},
    }
    home = {"name": "home", "source": "folder", "path": str(folder), "slice": {"index": 0, "of": 2}}
    run = new_run(tmp_path, [home, held_out], rounds=1)
    run_in_memory(run)
    assert (run.path / "report.html").is_file()
    assert (run.path / "gallery" / "home.jpg").is_file()
    assert_nothing_of_a_header(run.path)
    assert_nothing_of_a_header(tmp_path / "cache")


def test_without_pydicom_the_sentence_says_what_to_install(tmp_path: Path) -> None:
    dicom_clinic(tmp_path)
    told = process(
        "sites",
        "audit",
        write_config(tmp_path),
        cwd=tmp_path,
        before="import sys; sys.modules['pydicom'] = None",
    )
    assert 'is a DICOM file, and pydicom is not installed; pip install "fedderm[dicom]"' in told.sentence()


def test_sites_commands_take_a_dicom_folder(tmp_path: Path) -> None:
    dicom_clinic(tmp_path)
    told = fedderm("sites", "audit", write_config(tmp_path))
    assert told.code == 0, told.err
    assert "audit: 12 images of 12 lesions" in told.out
