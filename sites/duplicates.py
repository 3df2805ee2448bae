"""Pairs of images that show the same photograph: re-encoded, resized or slightly cropped copies.

Two stages, because dermoscopic images look alike (a dark blob on bright skin). All pairs are compared by
the correlation of a coarse `(16, 16)` band-pass image, one matrix product; survivors by that of a `(32,
32)` one under small crops of either image. Sizes and thresholds were set on all 50 million pairs of
HAM10000: docs/audit.md.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Fingerprints = NDArray[np.uint8]
"""`(N, 64, 64)`, see ``sites.images.perceptual_fingerprint``."""
Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

COARSE_CORRELATION: Final = 0.85
FINE_CORRELATION: Final = 0.94
_COARSE, _FINE = 16, 32
_BAND = 2.0  # sigma in cells; slower changes (vignette, the blob itself) are taken out
_KEPT = (1.0, 0.975, 0.95)  # fraction of the frame's side that a crop leaves
_BLOCK = 1024  # images compared at a time; bounds the memory to a few hundred MB at 25,000 images


def near_pairs(fingerprints: Fingerprints, apart: Sequence[Indices]) -> tuple[Indices, Floats]:
    """Return the `(M, 2)` pairs `i < j` of near-identical images, and their fine correlations `(M,)`.

    ``apart`` holds `(N,)` codes; a pair with equal codes in any of them is not looked at (same split of the
    same site, same lesion). A featureless image correlates with nothing.
    """
    if len(fingerprints) < 2:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    pairs = np.concatenate(list(_candidates(fingerprints, apart)))
    scores = _fine_scores(fingerprints, pairs)
    near = scores >= FINE_CORRELATION
    return pairs[near], scores[near]


def _candidates(fingerprints: Fingerprints, apart: Sequence[Indices]) -> Iterator[Indices]:
    """Yield the pairs that pass the coarse stage, block by block."""
    coarse = _band_pass(_resampled(fingerprints, _COARSE, 0.0, 1.0, 0.0))
    for start in range(0, len(coarse), _BLOCK):
        block = slice(start, start + _BLOCK)
        i, j = np.nonzero(coarse[block] @ coarse[start:].T >= COARSE_CORRELATION)
        i, j = i[i < j] + start, j[i < j] + start
        wanted = np.ones(len(i), dtype=bool)
        for codes in apart:
            wanted &= codes[i] != codes[j]
        yield np.stack([i[wanted], j[wanted]], axis=1)


def _fine_scores(fingerprints: Fingerprints, pairs: Indices) -> Floats:
    """Return each pair's best correlation `(M,)`, either image being a crop of the other."""
    images, local = np.unique(pairs, return_inverse=True)
    local = local.reshape(-1, 2)
    whole = np.concatenate([_views(block)[:, 0] for block in _blocks(fingerprints, images)] or [_no_view()])
    scores = np.zeros(len(pairs), dtype=np.float32)
    for cropped, other in ((0, 1), (1, 0)):
        order = np.argsort(local[:, cropped], kind="stable")
        bounds = np.searchsorted(local[order, cropped], np.arange(0, len(images) + _BLOCK // 8, _BLOCK // 8))
        for number, block in enumerate(_blocks(fingerprints, images)):
            views = _views(block)
            for rows in np.array_split(
                part := order[bounds[number] : bounds[number + 1]], len(part) // _BLOCK + 1
            ):
                own = views[local[rows, cropped] - number * (_BLOCK // 8)]
                best = np.einsum("mvd,md->mv", own, whole[local[rows, other]]).max(axis=1)
                scores[rows] = np.maximum(scores[rows], best)
    return scores


def _blocks(fingerprints: Fingerprints, images: Indices) -> Iterator[Fingerprints]:
    for start in range(0, len(images), _BLOCK // 8):
        yield fingerprints[images[start : start + _BLOCK // 8]]


def _no_view() -> Floats:
    return np.empty((0, _FINE * _FINE), np.float32)


def _views(fingerprints: Fingerprints) -> Floats:
    """Return `(N, V, 1024)` normalised band-pass images: the whole frame first, then crops at nine places."""
    views = []
    for kept in _KEPT:
        places = (0.0,) if kept == 1 else (0.0, (1 - kept) / 2, 1 - kept)
        views += [
            _band_pass(_resampled(fingerprints, _FINE, top, kept, left)) for top in places for left in places
        ]
    return np.stack(views, axis=1)


def _resampled(fingerprints: Fingerprints, size: int, top: float, kept: float, left: float) -> Floats:
    """Return the crop of the frame that starts at (top, left), averaged to `(N, size, size)`."""
    cells = fingerprints.shape[-1]
    rows, columns = _averaging(cells, size, top, kept), _averaging(cells, size, left, kept)
    return np.asarray(rows @ fingerprints.astype(np.float32) @ columns.T, dtype=np.float32)


def _averaging(cells: int, size: int, start: float, kept: float) -> Floats:
    """Return the `(size, cells)` matrix that averages cells over ``size`` equal parts of an interval."""
    edges = cells * (start + kept * np.arange(size + 1) / size)
    cell = np.arange(cells)
    covered = np.minimum(edges[1:, None], cell + 1) - np.maximum(edges[:-1, None], cell)
    return np.asarray(np.clip(covered, 0, None) / (cells * kept / size), dtype=np.float32)


def _band_pass(images: Floats) -> Floats:
    """Return `(N, size * size)` rows of mean 0 and length 1 without slow changes; 0 where nothing is left."""
    smooth = gaussian_filter1d(np.eye(images.shape[-1], dtype=np.float32), _BAND, axis=0)
    rows = (images - smooth @ images @ smooth.T).reshape(len(images), -1)
    rows -= rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(length > 1e-3 * images.shape[-1], rows / np.maximum(length, 1e-6), 0).astype(np.float32)
