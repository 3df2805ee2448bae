"""Dark hair taken out of a dermoscopic image: found as thin, long and straight, painted over from beside it.

After Lee, Ng, Gallagher, Coldman and McLean, "DullRazor: A software approach to hair removal from images",
Computers in Biology and Medicine 27(6), 1997: a grey-scale closing fills what is dark and thin, the
difference to the image marks it, what is not long is dropped, and the rest is replaced from its surroundings
and smoothed. Three things are ours. The difference must be there in all three channels, since hair darkens
all of them and vessels hardly the red one. Length is asked for along straight lines in sixteen directions,
since a pigment network is thin and dark, too, and connected, but nowhere straight for long. And light hair is
left alone: shiny white streaks are a sign of melanoma, and look like it.

Everything is found at a bounded size, in fractions of the image's shorter side, so that the time hardly
depends on the camera. Pixels that are no hair stay as they are, bit for bit.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, binary_propagation, gaussian_filter, grey_closing, label

from sites.images import Pixels

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

WORKING_SIDE: Final = 256
"""Pixels of the shorter side at which hair is looked for, where the image has more."""
WIDEST: Final = 0.03
"""Of the shorter side: what is wider is no hair. Hair of 0.1 mm in a field of 10 mm is a hundredth."""
STRAIGHT: Final = 0.2
"""Of the shorter side: how long a stretch of hair must be straight."""
LONG: Final = 0.25
"""Of the shorter side: the least diagonal of the box around a hair."""
STRONG: Final = 0.08
"""How much darker than beside it a hair must be, of 0..1, ..."""
WEAK: Final = 0.04
"""... and what belongs to it where it is connected with such a stretch."""
FILLED: Final = 0.85
"""The share of a straight stretch that must be marked: hairs bend, cross and shine."""
DIRECTIONS: Final = 16
_NEXT: Final = np.ones((3, 3), np.bool_)


def without_hair(pixels: Pixels) -> Pixels:
    """Return ``pixels`` `(H, W, 3)` with dark hair painted over; the same array where there is none."""
    height, width = pixels.shape[:2]
    small = _working(pixels)
    mask = _mask(small)
    if not mask.any():
        return pixels
    filled = np.rint(255 * _filled(small, mask)).astype(np.uint8)
    if small.shape[:2] != (height, width):
        filled = np.asarray(Image.fromarray(filled).resize((width, height), Image.Resampling.BILINEAR))
        mask = _scaled(mask, (width, height))
    return np.where(mask[..., None], filled, pixels)


def hair_mask(pixels: Pixels) -> Mask:
    """Return where ``without_hair`` paints, `(H, W)`."""
    mask, (height, width) = _mask(_working(pixels)), pixels.shape[:2]
    return mask if mask.shape == (height, width) else _scaled(mask, (width, height))


def _working(pixels: Pixels) -> Floats:
    """Return the image in 0..1, its shorter side of ``WORKING_SIDE`` pixels at most."""
    height, width = pixels.shape[:2]
    factor = WORKING_SIDE / min(height, width)
    image = Image.fromarray(pixels)
    if factor < 1:
        size = (round(width * factor), round(height * factor))
        image = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(image, np.float32) / np.float32(255)


def _mask(image: Floats) -> Mask:
    """Return where there is hair and the shadow beside it, `(h, w)`, of an image `(h, w, 3)` in 0..1."""
    shorter = min(image.shape[:2])
    darker = _thin_and_dark(image, max(3, round(WIDEST * shorter)) | 1)
    reach = max(7, round(STRAIGHT * shorter))
    straight = _straight(darker > STRONG, reach)
    if not straight.any():
        return straight
    # Half as long suffices where it goes on from a sure stretch: so the ends and bends of a hair are found,
    # and a network that it crosses is not.
    hair = binary_propagation(straight, _NEXT, _straight(darker > WEAK, reach // 2) | straight)
    return np.asarray(binary_dilation(_long(hair, LONG * shorter), _NEXT), np.bool_)


def _thin_and_dark(image: Floats, size: int) -> Floats:
    """Return by how much each pixel is darker than after a closing by a square of ``size`` pixels, `(h, w)`:
    in the channel that shows it least."""
    hats = [grey_closing(image[..., c], size=(size, size)) - image[..., c] for c in range(3)]
    return np.asarray(np.min(hats, axis=0), np.float32)


def _straight(marked: Mask, reach: int) -> Mask:
    """Return what of ``marked`` lies on a straight line of ``reach`` pixels of which ``FILLED`` are marked.

    An opening by lines that forgives gaps, made of shifted arrays that are added up: SciPy's openings take a
    footprint pixel by pixel.
    """
    half = reach // 2
    height, width = marked.shape
    found = np.zeros_like(marked)
    padded = np.pad(marked.view(np.uint8), half)
    steps = np.arange(-half, half + 1)
    needed = int(np.ceil(FILLED * len(steps)))
    for angle in np.pi * np.arange(DIRECTIONS) / DIRECTIONS:
        longer = max(abs(np.cos(angle)), abs(np.sin(angle)))
        down = np.rint(steps * np.sin(angle) / longer).astype(int) + half
        across = np.rint(steps * np.cos(angle) / longer).astype(int) + half
        counts = np.zeros(marked.shape, np.uint8)
        for y, x in zip(down, across, strict=True):
            counts += padded[y : y + height, x : x + width]
        middles = np.pad((counts >= needed), half)
        if middles.any():
            for y, x in zip(down, across, strict=True):
                found |= middles[y : y + height, x : x + width]
    return found & marked


def _long(marked: Mask, least: float) -> Mask:
    """Return the connected parts of ``marked`` whose box has a diagonal of ``least`` pixels or more."""
    numbers, count = label(marked, _NEXT)
    rows, columns = np.nonzero(numbers)
    of = numbers[rows, columns]
    extent = []
    for places in (rows, columns):
        lowest, highest = np.full(count + 1, np.inf), np.full(count + 1, -np.inf)
        np.minimum.at(lowest, of, places)
        np.maximum.at(highest, of, places)
        extent.append(highest - lowest)
    keep = np.hypot(*extent) >= least
    keep[0] = False
    return np.asarray(keep[numbers], np.bool_)


def _filled(image: Floats, mask: Mask) -> Floats:
    """Return the image with what is masked replaced by the Gaussian mean of what is not, near before far."""
    seen = (~mask).astype(np.float32)
    found = image.copy()
    missing = mask.copy()
    sigma = 0.008 * min(mask.shape)
    while missing.any():
        weight = gaussian_filter(seen, sigma)
        enough = missing & (weight > 0.05)
        for c in range(3):
            mean = gaussian_filter(image[..., c] * seen, sigma)
            found[enough, c] = mean[enough] / weight[enough]
        missing &= ~enough
        sigma *= 2
        if sigma > max(mask.shape):  # all is masked: there is nothing to paint from
            break
    return found


def _scaled(mask: Mask, size: tuple[int, int]) -> Mask:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), np.bool_)
