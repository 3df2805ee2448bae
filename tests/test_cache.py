"""The pixel cache: the same pixels by any number of workers, processes, kills and disks."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from full_disk import files_of_at_most
from pydantic import ValidationError
from site_images import site_data, write_images

from sites.acquisition import AcquisitionProfile, apply
from sites.cache import PixelSettings, image_generator, open_cache
from sites.errors import SiteError
from sites.gallery import contact_sheet
from sites.images import content_hash, perceptual_fingerprint, read_image, to_square

SETTINGS = PixelSettings(image_size=32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of 12 images, img00.png to img11.png."""
    return write_images(tmp_path / "images", 12)


def test_rows_are_the_decoded_images_in_the_order_of_the_table(folder: Path, tmp_path: Path) -> None:
    data = site_data(folder)
    cache = open_cache(data, SETTINGS, tmp_path / "work")
    assert cache.pixels.shape == (12, 32, 32, 3)
    for row, path in enumerate(cache.table["path"]):
        np.testing.assert_array_equal(cache.pixels[row], to_square(read_image(path), 32, "center"))
    assert cache.table["image_id"].tolist() == data.table["image_id"].tolist()
    assert isinstance(cache.pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        cache.pixels[0] = 0


def test_fingerprints_are_of_the_files_own_pixels(folder: Path, tmp_path: Path) -> None:
    """A device, colour correction and size change the cached pixels, never the fingerprints."""
    seen = site_data(folder, acquisition=AcquisitionProfile(gamma=2.0))
    settings = PixelSettings(image_size=16, colour="shades_of_grey", crop="squash")
    prints = open_cache(seen, settings, tmp_path / "work").fingerprints
    assert prints.columns.tolist() == ["image_id", "content", "perceptual"]
    pixels = read_image(seen.table["path"].iloc[3])
    assert prints["content"].iloc[3] == content_hash(pixels)
    assert prints["perceptual"].iloc[3] == perceptual_fingerprint(pixels).tobytes()


def test_second_opening_decodes_nothing(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    data = site_data(folder)
    for _ in range(2):
        open_cache(data, SETTINGS, tmp_path / "work", progress=lambda *args: calls.append(args))
    assert calls == [(n, 12) for n in range(1, 13)]


def test_key_follows_files_settings_and_device(folder: Path, tmp_path: Path) -> None:
    def key(**settings: Any) -> str:
        data = site_data(folder, acquisition=settings.pop("acquisition", None))
        return open_cache(
            data, PixelSettings(**{"image_size": 32, **settings}), tmp_path / "work"
        ).folder.name

    first = key()
    device = AcquisitionProfile(gamma=1.3)
    assert key() == first
    names = {
        first,
        key(image_size=33),
        key(crop="squash"),
        key(colour="shades_of_grey"),
        key(hair="removed"),
        key(acquisition=device),
    }
    os.utime(folder / "img04.png", (1, 1))
    assert len({*names, key()}) == 7


def test_workers_do_not_matter_even_with_a_random_device(folder: Path, tmp_path: Path) -> None:
    data = site_data(folder, acquisition=AcquisitionProfile(noise=0.05, hair=1.0))
    one = open_cache(data, SETTINGS, tmp_path / "one", workers=1)
    four = open_cache(data, SETTINGS, tmp_path / "four", workers=4)
    np.testing.assert_array_equal(one.pixels, four.pixels)


def test_device_sees_the_full_image_with_the_images_own_generator(folder: Path, tmp_path: Path) -> None:
    profile = AcquisitionProfile(noise=0.05)
    data = site_data(folder, acquisition=profile)
    cache = open_cache(data, SETTINGS, tmp_path / "work")
    row = data.table.iloc[5]
    generator = image_generator(data.site.name, row["image_id"])
    expected = apply(read_image(row["path"]), profile, generator, bool(row["class_index"] > 0))
    np.testing.assert_array_equal(cache.pixels[5], to_square(expected, 32, "center"))


def test_image_generators_differ_by_site_and_image() -> None:
    draws = {image_generator(s, i).random() for s in ("a", "b") for i in ("1", "2")}
    assert len(draws) == 4


def test_unreadable_image_is_set_aside_with_its_reason(folder: Path, tmp_path: Path) -> None:
    (folder / "img03.png").write_bytes(b"")
    cache = open_cache(site_data(folder, max_unreadable=0.1), SETTINGS, tmp_path / "work")
    assert cache.pixels.shape[0] == len(cache.table) == 11
    assert "img03" not in set(cache.table["image_id"])
    assert cache.table.index.tolist() == list(range(11))
    np.testing.assert_array_equal(cache.pixels[3], to_square(read_image(folder / "img04.png"), 32, "center"))
    assert cache.set_aside["image_id"].tolist() == ["img03"]
    assert "0 bytes" in cache.set_aside["reason"].iloc[0]
    assert "img03" not in set(cache.fingerprints["image_id"])


def test_too_many_unreadable_images_stop_the_site(folder: Path, tmp_path: Path) -> None:
    for name in ("img03.png", "img07.png"):
        (folder / name).write_bytes(b"no image")
    with pytest.raises(SiteError, match=r"site 'clinic': at least 2 of 12 .*img03\.png: not an image"):
        open_cache(site_data(folder, max_unreadable=0.1), SETTINGS, tmp_path / "work")
    assert leftovers(tmp_path) == []
    # A limit that allows them lets the site start; a stricter one then refuses the cache that is there.
    open_cache(site_data(folder, max_unreadable=0.2), SETTINGS, tmp_path / "work")
    with pytest.raises(SiteError, match=r"max_unreadable is 0\.1"):
        open_cache(site_data(folder, max_unreadable=0.1), SETTINGS, tmp_path / "work")


def test_images_missing_from_the_start_count_too(folder: Path, tmp_path: Path) -> None:
    (folder / "img03.png").write_bytes(b"")
    missing = pd.DataFrame({"image_id": ["x"], "path": ["/x.png"], "reason": ["the image file is missing"]})
    with pytest.raises(SiteError, match="at least 2 of 13"):
        open_cache(site_data(folder, set_aside=missing, max_unreadable=0.1), SETTINGS, tmp_path / "work")


def test_no_readable_image_at_all(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"")
    with pytest.raises(SiteError, match="12 of 12 images cannot be read"):
        open_cache(site_data(folder, max_unreadable=1), SETTINGS, tmp_path / "work")


def test_damaged_cache_is_built_again(folder: Path, tmp_path: Path) -> None:
    data = site_data(folder)
    first = open_cache(data, SETTINGS, tmp_path / "work")
    expected, file = np.array(first.pixels), first.folder / "pixels.npy"
    for damage in (file.read_bytes()[:999], b""):
        file.unlink()
        file.write_bytes(damage)
        np.testing.assert_array_equal(open_cache(data, SETTINGS, tmp_path / "work").pixels, expected)


def test_settings_are_checked() -> None:
    for bad in ({"image_size": 15}, {"image_size": 1025}, {"image_size": 64, "crop": "middle"}):
        with pytest.raises(ValidationError):
            PixelSettings(**bad)


def leftovers(tmp_path: Path) -> list[str]:
    """Return what lies in the cache folder beside whole caches and locks."""
    return [path.name for path in (tmp_path / "work" / "pixels").glob(".*")]


BUILD = """
import sys, time
from pathlib import Path
from site_images import site_data
from sites.cache import PixelSettings, open_cache

def progress(done, total):
    print(done, flush=True)
    time.sleep(float(sys.argv[3]))

data = site_data(Path(sys.argv[1]))
cache = open_cache(data, PixelSettings(image_size=32), Path(sys.argv[2]), progress=progress)
print(cache.folder.name, int(cache.pixels.sum()))
"""


def builder(folder: Path, work: Path, pause: float) -> "subprocess.Popen[str]":
    """Return a process that builds the cache, printing how many images are done."""
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent)])
    command = [sys.executable, "-c", BUILD, str(folder), str(work), str(pause)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )


@pytest.mark.slow
def test_killed_build_leaves_nothing_broken(folder: Path, tmp_path: Path) -> None:
    process = builder(folder, tmp_path / "work", 0.2)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(leftovers(tmp_path)) == 1
    # Another site's build sweeps it up, and its own starts afresh.
    other = site_data(folder, name="other")
    open_cache(other, SETTINGS, tmp_path / "work")
    assert leftovers(tmp_path) == []
    assert open_cache(site_data(folder), SETTINGS, tmp_path / "work").pixels.shape[0] == 12


@pytest.mark.slow
def test_two_processes_build_once_and_a_living_build_is_not_swept(folder: Path, tmp_path: Path) -> None:
    first = builder(folder, tmp_path / "work", 0.1)
    assert first.stdout is not None
    first.stdout.readline()
    open_cache(site_data(folder, name="other"), SETTINGS, tmp_path / "work")
    assert len(leftovers(tmp_path)) == 1
    calls: list[int] = []
    cache = open_cache(
        site_data(folder), SETTINGS, tmp_path / "work", progress=lambda done, _: calls.append(done)
    )
    last = first.communicate()[0].split("\n")[-2]
    assert last == f"{cache.folder.name} {int(cache.pixels.sum())}"
    assert calls == []


@pytest.mark.slow
def test_waiting_for_another_builder_ends(folder: Path, tmp_path: Path) -> None:
    first = builder(folder, tmp_path / "work", 0.3)
    assert first.stdout is not None
    first.stdout.readline()
    with pytest.raises(SiteError, match=r"another process has been making this folder for 0\.2 s"):
        open_cache(site_data(folder), SETTINGS, tmp_path / "work", lock_timeout=0.2)
    first.kill()
    first.communicate()


def test_threads_of_one_process_build_once(folder: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def opened(_: int) -> int:
        data = site_data(folder)
        cache = open_cache(data, SETTINGS, tmp_path / "work", 1, lambda done, _: calls.append(done))
        return int(cache.pixels.sum())

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(opened, range(4)))) == 1
    assert calls == list(range(1, 13))


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """Yield a mounted file system of 4 MB at the cache's place; skip where that is not allowed."""
    disk = tmp_path / "work"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_too_small_a_disk_is_noticed_before_building(folder: Path, small_disk: Path) -> None:
    calls: list[int] = []
    with pytest.raises(SiteError, match=r"needs 10,\d{3},\d{3} bytes of disk and [\d,]+ are free"):
        open_cache(
            site_data(folder),
            PixelSettings(image_size=512),
            small_disk,
            progress=lambda d, _: calls.append(d),
        )
    assert calls == []


def test_disk_that_fills_up_while_building(folder: Path, small_disk: Path) -> None:
    """Another program writes all that is free once the first image is done."""

    def fill(done: int, total: int) -> None:
        del total
        if done == 1:
            with pytest.raises(OSError, match="No space left"):
                (small_disk / "filler").write_bytes(b"x" * 8_000_000)

    settings = PixelSettings(image_size=256)
    with pytest.raises(SiteError, match="the disk became full"):
        open_cache(site_data(folder), settings, small_disk, progress=fill)
    assert not [path for path in (small_disk / "pixels").iterdir() if path.suffix != ".lock"]
    (small_disk / "filler").unlink()
    assert open_cache(site_data(folder), settings, small_disk).pixels.shape[0] == 12


def test_file_size_limit_is_a_full_disk(folder: Path, tmp_path: Path) -> None:
    with files_of_at_most(20_000), pytest.raises(SiteError, match="the disk became full"):
        open_cache(site_data(folder), SETTINGS, tmp_path / "work")
    assert leftovers(tmp_path) == []
    assert open_cache(site_data(folder), SETTINGS, tmp_path / "work").pixels.shape[0] == 12


def test_contact_sheet_shows_both_kinds_and_is_repeatable(folder: Path, tmp_path: Path) -> None:
    cache = open_cache(site_data(folder), PixelSettings(image_size=100), tmp_path / "work")
    sheet = contact_sheet(cache, columns=4, rows=2, seed=3)
    assert sheet.size == (4 * 104 + 4, 2 * 120 + 4)
    assert sheet.tobytes() == contact_sheet(cache, columns=4, rows=2, seed=3).tobytes()
    assert sheet.tobytes() != contact_sheet(cache, columns=4, rows=2, seed=4).tobytes()
    corners = [(row * 120 + 4, column * 104 + 4) for row in range(2) for column in range(4)]
    tiles = [np.asarray(sheet)[y : y + 100, x : x + 100] for y, x in corners]
    shown = [next(i for i, pixels in enumerate(cache.pixels) if (pixels == tile).all()) for tile in tiles]
    assert (cache.table["class_index"].iloc[shown] > 0).tolist() == [False] * 4 + [True] * 4


def test_contact_sheet_of_a_site_with_few_images_stays_white_there(folder: Path, tmp_path: Path) -> None:
    cache = open_cache(site_data(folder), PixelSettings(image_size=96), tmp_path / "work")
    sheet = np.asarray(contact_sheet(cache, columns=5, rows=4))
    assert (sheet[-110:] == 255).all()


def test_real_images_decode(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "uda1" / "images"
    files = sorted(folder.glob("*.jpg"))[:40]
    cache = open_cache(site_data(folder, files=files), PixelSettings(image_size=112), tmp_path / "work")
    assert cache.set_aside.empty
    assert 60 < cache.pixels.mean() < 220
    index = json.loads((cache.folder / "index.json").read_text())
    assert index["image_ids"] == [file.stem for file in files]
