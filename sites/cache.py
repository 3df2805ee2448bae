"""The memory-mapped pixel cache: a site's images decoded, seen through its device and resized, once.

A cache is a folder with ``pixels.npy``, ``perceptual.npy`` and ``index.json``, whose name ends in a hash of
everything that decides its content. Images are decoded by threads: Pillow and NumPy release the
interpreter's lock where it counts (1.74 times as fast with two on HAM10000), and forking inside a Ray actor
is asking for a deadlock.
"""

import json
import os
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from sites.acquisition import apply
from sites.catalogue import MISSING, SiteData
from sites.decoding import Decoded, NpyWriter, decode, in_order
from sites.errors import ImageUnreadable, SiteError
from sites.hair import without_hair
from sites.images import FINGERPRINT_SIZE, Crop, Pixels, shades_of_grey, to_square
from sites.site import SiteSettings
from sites.whole_folder import open_or_make

Progress = Callable[[int, int], None]
"""Called with (images done, images in all), from the thread that opened the cache."""

LOCK_TIMEOUT: Final = 3600.0
"""Seconds to wait for another process that is building the same cache."""

Outcome = Decoded | str
"""An image's pixels and fingerprints, or why there are none."""

_FORMAT: Final = 1
_GREY: Final = (FINGERPRINT_SIZE, FINGERPRINT_SIZE)
_INDEX_BYTES: Final = 256  # of an image in index.json
_SPARE_BYTES: Final = 1 << 20


class PixelSettings(BaseModel):
    """What the network gets to see of an image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: Annotated[int, Field(ge=16, le=1024)]
    """Side of the square, in pixels."""
    crop: Crop = "center"
    """``center``: the central square; ``squash``: the whole frame, distorted to a square."""
    hair: Literal["none", "removed"] = "none"
    """``removed``: dark hair is painted over, as ``sites.hair`` does it."""
    colour: Literal["none", "shades_of_grey"] = "none"


@dataclass(frozen=True)
class PixelCache:
    """A site's pixels and the rows of its table that they belong to."""

    pixels: NDArray[np.uint8]
    """Read-only memory map `(N, S, S, 3)`; row ``i`` belongs to ``table.iloc[i]``."""
    table: pd.DataFrame
    set_aside: pd.DataFrame
    """Images that could not be decoded: image_id, path, reason."""
    settings: PixelSettings
    folder: Path

    @cached_property
    def fingerprints(self) -> pd.DataFrame:
        """Return image_id, content (hash of the decoded pixels) and perceptual (bytes of a 64x64 grey image).

        Taken from the file's own pixels, before the site's device, corrections and resizing.
        """
        index = json.loads((self.folder / "index.json").read_text())
        grey = np.load(self.folder / "perceptual.npy", mmap_mode="r")
        columns = {"image_id": index["image_ids"], "content": index["content"]}
        return pd.DataFrame({**columns, "perceptual": [row.tobytes() for row in grey]})


def open_cache(
    data: SiteData,
    settings: PixelSettings,
    work_dir: Path,
    workers: int | None = None,
    progress: Progress | None = None,
    *,
    lock_timeout: float = LOCK_TIMEOUT,
) -> PixelCache:
    """Return the pixel cache of a site, building it first where there is none for these files and settings.

    The cache's key covers image ids in order, sizes and modification times of the files, the settings and,
    where the site has a device, that device, the site's name and which images are malignant. ``workers``
    threads decode (None: one a CPU); the result does not depend on how many.

    Raises SiteError when no image, or fewer than ``max_unreadable`` allows, can be read; when the disk is
    full or not writable; and when another process holds the cache for longer than ``lock_timeout`` seconds.
    """
    if data.table.empty:
        raise SiteError(f"site '{data.site.name}' has no images; widen its select, slice or splits")
    folder = Path(work_dir) / "pixels" / f"{data.site.name}-{_key(data, settings)}"
    row_bytes = 3 * settings.image_size**2 + FINGERPRINT_SIZE**2 + _INDEX_BYTES

    def write(partial: Path) -> None:
        outcomes = in_order(_decoder(data, settings), _jobs(data), workers)
        _write(partial, data, settings, outcomes, progress)

    cache = open_or_make(
        folder,
        read=lambda: _read(folder, data, settings),
        write=write,
        needed=len(data.table) * row_bytes + _SPARE_BYTES,
        timeout=lock_timeout,
    )
    check_readable(data, cache.set_aside.to_dict("records"))
    return cache


def corrected(pixels: Pixels, settings: PixelSettings) -> Pixels:
    """Return the whole image `(H, W, 3)` as the settings want it: first without hair, then its colours."""
    pixels = without_hair(pixels) if settings.hair == "removed" else pixels
    return shades_of_grey(pixels) if settings.colour == "shades_of_grey" else pixels


def image_generator(site: str, image_id: str) -> np.random.Generator:
    """Return the random generator of one image at one site, whatever is decoded before it or by whom."""
    digest = blake2b(f"{site}\0{image_id}".encode(), digest_size=16).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest, "big")))


def _key(data: SiteData, settings: PixelSettings) -> str:
    as_before = {"hair"} if settings.hair == "none" else set[str]()  # caches from before there was the choice
    shown = settings.model_dump_json(exclude=as_before)
    digest = blake2b(f"{_FORMAT}\0{shown}\0".encode(), digest_size=8)
    seen_through_device = data.site.acquisition is not None
    if data.site.acquisition is not None:
        digest.update(f"{data.site.name}\0{data.site.acquisition.model_dump_json()}\0".encode())
    for image in _jobs(data):
        size, modified = _stat(image.path)
        label = image.malignant if seen_through_device else ""
        digest.update(f"{image.image_id}\0{size}\0{modified}\0{label}\n".encode())
    return digest.hexdigest()


def _stat(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)  # noqa: PTH116 - a Path for each of 25,000 images takes longer than the call
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _read(folder: Path, data: SiteData, settings: PixelSettings) -> PixelCache | None:
    """Return the cache in a folder, or None where there is none or it was damaged after it was made."""
    try:
        index = json.loads((folder / "index.json").read_text())
        pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        grey = np.load(folder / "perceptual.npy", mmap_mode="r")
        ids, aside = (
            index["image_ids"],
            pd.DataFrame(index["set_aside"], columns=["image_id", "path", "reason"]),
        )
    except (OSError, ValueError, LookupError, EOFError):
        return None
    if not len(ids) == len(pixels) == len(grey):
        return None
    table = data.table[~data.table["image_id"].isin(set(aside["image_id"]))].reset_index(drop=True)
    table.attrs = dict(data.table.attrs)
    return PixelCache(pixels, table, aside, settings, folder) if list(table["image_id"]) == ids else None


def check_readable(data: SiteData, failed: list[dict[Any, Any]]) -> None:
    """Raise SiteError when too many images cannot be used, those counted that were missing from the start.

    ``failed`` has image_id, path and reason of what could not be decoded.
    """
    missing = data.set_aside[data.set_aside["reason"] == MISSING].to_dict("records")
    bad, listed = len(missing) + len(failed), len(data.table) + len(missing)
    if bad > data.site.max_unreadable * listed or len(failed) == len(data.table):
        reasons = [str(row["reason"]) for row in failed] + [f"{row['path']}: {MISSING}" for row in missing]
        raise SiteError(
            f"site '{data.site.name}': at least {bad} of {listed} images cannot be read (max_unreadable is "
            f"{data.site.max_unreadable:g}): {'; '.join(reasons[:3])}{' ...' if bad > 3 else ''}; "
            "repair them, take them out of the table or raise max_unreadable"
        )


@dataclass(frozen=True)
class _Job:
    image_id: str
    path: str
    malignant: bool


def _jobs(data: SiteData) -> list[_Job]:
    table = data.table
    columns = (table["image_id"], table["path"], table["class_index"])
    return [_Job(str(i), str(p), bool(c > 0)) for i, p, c in zip(*columns, strict=True)]


def _seen(pixels: Pixels, job: _Job, site: SiteSettings, settings: PixelSettings) -> Pixels:
    """Return what a network sees: through the site's device, corrected, square."""
    if site.acquisition is not None:
        generator = image_generator(site.name, job.image_id)
        pixels = apply(pixels, site.acquisition, generator, job.malignant)
    return to_square(corrected(pixels, settings), settings.image_size, settings.crop)


def _decoder(data: SiteData, settings: PixelSettings) -> Callable[[_Job], Outcome]:
    """Return what turns a job into pixels, or into the reason why there are none."""

    def outcome(job: _Job) -> Outcome:
        """Return an image's pixels, or the sentence why there are none."""
        try:
            return decode(job.path, lambda pixels: _seen(pixels, job, data.site, settings))
        except ImageUnreadable as error:
            return str(error)

    return outcome


def _write(
    folder: Path,
    data: SiteData,
    settings: PixelSettings,
    outcomes: Generator[Outcome, None, None],
    progress: Progress | None,
) -> None:
    """Write the outcomes, in the order of the table's rows, and the index that says which row is whose."""
    total, side = len(data.table), settings.image_size
    ids: list[str] = []
    content: list[str] = []
    failed: list[dict[str, str]] = []
    with (
        closing(outcomes),
        NpyWriter(folder / "pixels.npy", (side, side, 3)) as pixels,
        NpyWriter(folder / "perceptual.npy", _GREY) as grey,
    ):
        for done, (job, outcome) in enumerate(zip(_jobs(data), outcomes, strict=True), start=1):
            if isinstance(outcome, str):
                failed.append({"image_id": job.image_id, "path": job.path, "reason": outcome})
                check_readable(data, failed)  # before thousands more are decoded in vain
            else:
                ids.append(job.image_id)
                content.append(outcome.content)
                pixels.append(outcome.square)
                grey.append(outcome.perceptual)
            if progress is not None:
                progress(done, total)
    index = {"site": data.site.name, "settings": settings.model_dump(), "image_ids": ids, "content": content}
    (folder / "index.json").write_text(json.dumps({**index, "set_aside": failed}))
