"""A site's image files: readable, of a fit size, each there once, and which identifiers they carry."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedderm.doctor.findings import Finding, Progress
from sites.audit import audit, resolve
from sites.cache import PixelCache
from sites.catalogue import SiteData
from sites.decoding import in_order
from sites.errors import ImageUnreadable, SiteError
from sites.image_headers import ImageHeader, read_header
from sites.words import counted

_NAMED = 5
_NEARLY_BLACK = 20
_DAY = 86_400.0


def examine_files(data: SiteData, progress: Progress) -> Iterator[Finding]:
    """Yield what the files say before they are decoded: sizes, identifiers, times."""
    paths = [str(path) for path in data.table["path"]]
    headers: list[ImageHeader] = []
    try:
        for done, header in enumerate(in_order(_header, paths, None), start=1):
            headers += [header] if header is not None else []
            progress(f"{data.site.name}: read headers", done, len(paths))
    except SiteError:  # pydicom is not installed, which decoding tells as well
        return
    if headers:
        yield _sizes(headers)
        yield from _identifiers(headers)
    ahead = sum(_modified(path) > time.time() + _DAY for path in paths)
    if ahead:
        yield Finding(
            "look",
            "clock",
            f"{ahead} of {counted(len(paths), 'image file')} bear a time in the future; check the clock of "
            "this machine, or of the one they came from",
        )


def examine_pixels(data: SiteData, cache: PixelCache) -> Iterator[Finding]:
    """Yield what decoding has shown: images set aside, too small, black or there twice."""
    size = cache.settings.image_size
    yield Finding("fine", "images", f"{counted(len(cache.table), 'image')} decoded at {size} pixels")
    # Those that a note has counted already, such as excluded diagnoses, were set aside on purpose.
    told = [
        any(note.endswith(f"set aside: {reason}") for note in data.notes)
        for reason in data.set_aside["reason"]
    ]
    unforeseen = data.set_aside[~np.array(told, bool)]
    for row in unforeseen.to_dict("records")[:_NAMED]:
        yield Finding("look", "images", f"image {row['image_id']} is set aside: {row['reason']}")
    more = len(unforeseen) - _NAMED
    if more > 0:
        yield Finding("look", "images", f"{more} more {'image is' if more == 1 else 'images are'} set aside")
    levels = np.asarray(cache.pixels[:: max(1, len(cache.pixels) // 500)]).mean(axis=(1, 2, 3))
    if dark := int((levels < _NEARLY_BLACK).sum()):
        yield Finding(
            "look", "images", f"{dark} of {len(levels)} sampled images are nearly black; look at them"
        )
    yield from _repeated(data, cache)


def _header(path: str) -> ImageHeader | None:
    try:
        return read_header(path)
    except ImageUnreadable:  # named when it is decoded
        return None


def _modified(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0


def _sizes(headers: list[ImageHeader]) -> Finding:
    sizes = Counter((header.width, header.height) for header in headers)
    (width, height), most = sizes.most_common(1)[0]
    sides = sorted(min(header.width, header.height) for header in headers)
    others = f"; {len(sizes)} sizes, shorter sides from {sides[0]} to {sides[-1]}" if len(sizes) > 1 else ""
    return Finding(
        "fine", "images", f"{width} x {height} pixels in {most} of {counted(len(headers), 'image')}{others}"
    )


def _identifiers(headers: list[ImageHeader]) -> Iterator[Finding]:
    kinds = Counter(kind for header in headers for kind in header.carries)
    carriers = sum(bool(header.carries) for header in headers)
    if not kinds:
        yield Finding(
            "fine", "identifiers", "the image files carry no names, dates, places or serial numbers"
        )
    else:
        listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        yield Finding(
            "fine" if set(kinds) == {"dates"} else "look",
            "identifiers",
            f"{carriers} of {counted(len(headers), 'image file')} carry identifiers ({listed}); fedderm "
            "takes their pixels and nothing else, but clear them before you give a file to anyone",
        )
    if named := sum(header.named_after_patient for header in headers):
        told = "1 file name holds" if named == 1 else f"{named} file names hold"
        yield Finding(
            "look",
            "identifiers",
            f"{told} the patient's name or number; file names are image ids and stand in caches and lists on "
            "this machine: rename the files, and image_id in the table",
        )


def _repeated(data: SiteData, cache: PixelCache) -> Iterator[Finding]:
    prints = cache.fingerprints
    repeated = prints[prints["content"].duplicated(keep=False)].sort_values("content")
    if len(repeated):
        names = ", ".join(repeated["image_id"].astype(str).head(4))
        yield Finding(
            "look",
            "images",
            f"{len(repeated)} images have the pixels of another one: {names} ...; keep one of each",
        )
    # What it gives up to other sites is settled where all of them are known.
    own = [name for name in data.site.gives_way_to if name == data.site.name]
    alone = replace(data, site=data.site.model_copy(update={"gives_way_to": own}))
    try:
        (_, given_up) = resolve([alone], audit([alone], {data.site.name: prints}))
    except SiteError as error:
        first, *others = (line.strip() for line in str(error).splitlines())
        yield Finding("stops", "images", f"{first} {'; '.join(others)}".strip())
        return
    if lost := given_up[data.site.name]:
        yield Finding(
            "look",
            "images",
            f"{counted(lost, 'image')} of another split's lesions or photographs will be left out",
        )
