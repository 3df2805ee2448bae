"""Image files to pixels: decoding, fingerprints of pixels, colour constancy, the square a network sees.

Pixels are `(H, W, 3)` uint8 sRGB arrays throughout. ICC profiles are not applied: dermatoscopes rarely
write one, and two sites must not differ by whether their software did.
"""

import struct
import zlib
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sites.dicom import DICOM_SUFFIXES, begins_as_dicom
from sites.dicom_pixels import read_dicom
from sites.errors import ImageUnreadable, out_of_reach

Pixels: TypeAlias = NDArray[np.uint8]
"""`(H, W, 3)` RGB."""

Crop = Literal["center", "squash"]

MAX_PIXELS: Final = 80_000_000
"""Larger images are refused; below the size from which Pillow itself suspects a decompression bomb."""

FINGERPRINT_SIZE: Final = 64
"""Side of ``perceptual_fingerprint`` in cells."""

FORMATS: Final = ("JPEG", "PNG", "TIFF", "BMP")
BROKEN_FILE: Final = (SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error, zlib.error)
_BITS_PER_SAMPLE: Final = 258  # TIFF tag


def read_image(path: Path | str) -> Pixels:
    """Return the upright RGB pixels, `(H, W, 3)` uint8, of a JPEG, PNG, TIFF, BMP or DICOM file.

    The first page of a multi-page file counts; EXIF rotation is applied; CMYK, grey, palette and 1-bit
    images become RGB; 12- and 16-bit grey is scaled by its bit depth, never stretched to its own range;
    transparent images are laid on white, as image viewers show them. DICOM is told by its content
    (``sites.dicom_pixels``). Raises ImageUnreadable for a missing, empty, truncated, foreign or huge file.
    """
    path = Path(path)
    check_file(path)
    if begins_as_dicom(path):
        return read_dicom(path, MAX_PIXELS)
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(path, image)
            image.load()
            return _to_rgb(path, ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except UnidentifiedImageError:
        raise unknown_kind(path) from None
    except ImageUnreadable:
        raise
    except (OSError, *BROKEN_FILE) as error:
        raise out_of_reach(path, error) from None


def content_hash(pixels: Pixels) -> str:
    """Return 32 hex digits that are equal for equal pixels and shape, whatever the file format was."""
    digest = blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def perceptual_fingerprint(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the whole frame in grey, averaged down to `(64, 64)` uint8 whatever its aspect ratio was.

    What re-encoding and resizing leave alone; ``sites.duplicates`` compares it, small crops included. A
    rotated or mirrored copy has another fingerprint.
    """
    grey = Image.fromarray(pixels).convert("L")
    return np.asarray(grey.resize((FINGERPRINT_SIZE, FINGERPRINT_SIZE), Image.Resampling.BOX))


def shades_of_grey(pixels: Pixels, p: float = 6) -> Pixels:
    """Return the image as under a white light: each channel divided by its Minkowski p-mean, brightness kept.

    Finlayson and Trezzi, "Shades of Gray and Colour Constancy", CIC 2004; `p = 6` is their choice. `p = 1`
    is grey-world. An image that is black in any channel has no illuminant to divide by and is returned
    unchanged.
    """
    levels = np.arange(256, dtype=np.float64)
    counts = np.stack([np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)])
    light = ((counts @ (levels / 255) ** p) / counts.sum(axis=1)) ** (1 / p)
    if not light.all():
        return pixels
    gains = np.linalg.norm(light) / np.sqrt(3) / light
    table = np.clip(np.rint(levels * gains[:, None]), 0, 255).astype(np.uint8)
    return np.stack([table[c][pixels[..., c]] for c in range(3)], axis=-1)


def to_square(pixels: Pixels, size: int, crop: Crop) -> Pixels:
    """Return `(size, size, 3)`: the central square (``center``) or the whole frame, distorted (``squash``).

    Bicubic with antialiasing; an image that is much larger is first reduced by an integer factor, which is
    quicker and no worse at three times the target (Pillow's ``reducing_gap``).
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side) if crop == "center" else None
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


def check_file(path: Path) -> None:
    """Raise ImageUnreadable where there is no file, or nothing in it."""
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ImageUnreadable(f"{path}: {why}") from None
    if not path.is_file():
        raise ImageUnreadable(f"{path}: not a file")
    if empty:
        raise ImageUnreadable(f"{path}: the file is empty (0 bytes); copy it again")


def _check_size(path: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path)


def _too_large(path: Path) -> ImageUnreadable:
    return ImageUnreadable(f"{path}: more than {MAX_PIXELS / 1e6:.0f} megapixels; scale the image down")


def unknown_kind(path: Path) -> ImageUnreadable:
    """Return what to say of a file that is none of our formats."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return ImageUnreadable(
            f"{path}: is called DICOM but lacks its mark (DICM at byte 128); export it again"
        )
    return ImageUnreadable(f"{path}: {_what_it_is(path)}; convert it to JPEG, PNG, TIFF or BMP")


def _what_it_is(path: Path) -> str:
    """Return what a file that is none of our formats is. Opening only identifies it; nothing is decoded."""
    try:
        with Image.open(path) as image:
            return f"{image.format} images are not supported"
    except Exception:  # any failure to identify means the same to the reader
        return "not an image"


def _to_rgb(path: Path, image: Image.Image) -> Pixels:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _deep_grey(path, image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _deep_grey(path: Path, image: Image.Image) -> Image.Image:
    """Return 8-bit grey of a 12- or 16-bit image. Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65_535:
        raise ImageUnreadable(f"{path}: 32-bit grey images are not supported; convert it to 8 or 16 bits")
    tags = getattr(image, "tag_v2", {})
    full_scale = 4095 if cast(dict[int, tuple[int, ...]], tags).get(_BITS_PER_SAMPLE) == (12,) else 65_535
    return Image.fromarray(np.rint(values * (255 / full_scale)).astype(np.uint8))
