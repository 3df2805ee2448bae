"""Sites whose images are DICOM files: found, cached and trained on, without a word of a header."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import fedderm, process, write_config
from dicom_files import SECRETS, SKIN, cut, new_dataset, save
from PIL import Image
from pydicom import uid
from site_images import lesion_image, site_data

from sites.cache import PixelSettings, open_cache
from sites.dicom import begins_as_dicom
from sites.folder import FolderSite
from sites.images import content_hash, read_image


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
