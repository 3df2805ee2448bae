"""The feature cache: what a frozen trunk makes of a site's images, computed once and memory-mapped.

A cache is a folder with ``features.npy``, (N, V, T, F) float32: row i for image i of the pixel cache, V = 4
mirror images (the image, left-right, up-down, both), T trunks, F features. Its name is the pixel cache's,
which covers images and preprocessing, and the digest of the trunk's weights. It is built whole or not at all,
by one process while others wait.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from fedderm.batches import to_input
from fedderm.devices import autocast, pick_device, use_threads
from fedderm.inference import batches, images_at_once, mirror_images
from fedderm.memory_limits import MemoryLimit, in_parts
from fedderm.model.cascade import Cascade
from fedderm.model.frozen import built_trunk
from fedderm.settings import Experiment
from sites.whole_folder import open_or_make

VIEWS: Final = 4
LOCK_TIMEOUT: Final = 24 * 3600.0
"""Seconds to wait for another process: a large trunk over a large site on a CPU takes hours."""

Features = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CachedSite:
    """The images whose features are wanted, and the trunk they are wanted of."""

    pixels: npt.NDArray[np.uint8]
    """``(N, S, S, 3)``"""
    identity: str
    """Name of the pixel cache's folder."""
    experiment: Experiment
    trunk: str
    """Digest of the server's trunk."""

    @property
    def folder(self) -> Path:
        """Return the cache's folder."""
        precision = self.experiment.training.precision
        rounded = precision == "bfloat16" or (
            precision == "auto" and pick_device(self.experiment.resources.gpus_per_site).type == "cuda"
        )
        name = f"{self.identity}-{self.trunk}{'-bfloat16' if rounded else ''}"
        return self.experiment.work_dir / "features" / name


def open_features(site: CachedSite, progress: Progress | None = None, threads: int | None = None) -> Features:
    """Return the features (N, V, T, F) as a read-only map, after computing them where there are none.

    ``progress`` is told (images done, images in all); ``threads`` None: the site's own number. Raises
    ValueError where this machine's trunk is another than the one asked for, and SiteError where the disk does
    not serve.
    """
    folder = site.folder
    model: list[Cascade] = []

    def write(partial: Path) -> None:
        workers = threads or site.experiment.resources.cpus_per_site
        _write(partial / "features.npy", model[0], site, workers, progress)

    found = _read(folder, len(site.pixels))
    if found is not None:
        return found
    model.append(_trunk(site))
    return open_or_make(
        folder,
        read=lambda: _read(folder, len(site.pixels)),
        write=write,
        needed=4 * VIEWS * len(site.pixels) * len(model[0].trunks) * model[0].triage.in_features,
        timeout=LOCK_TIMEOUT,
    )


def _read(folder: Path, count: int) -> Features | None:
    """Return the cache in a folder; None where there is none or it was damaged after it was made."""
    try:
        found = np.load(folder / "features.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    whole = found.ndim == 4 and found.shape[:2] == (count, VIEWS) and found.dtype == np.float32
    return found if whole else None


def _trunk(site: CachedSite) -> Cascade:
    """Return the model whose trunk is the one asked for; raises ValueError where it cannot be built here."""
    model = built_trunk(site.experiment.model, site.experiment.training_seed, site.trunk)
    device = pick_device(site.experiment.resources.gpus_per_site)
    moved: Cascade = model.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return moved


def _write(path: Path, model: Cascade, site: CachedSite, threads: int, progress: Progress | None) -> None:
    pixels, device = site.pixels, model.mean.device
    shape = (len(pixels), VIEWS, len(model.trunks), model.triage.in_features)
    found = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)

    limit = MemoryLimit(model, "scoring", pixels.shape[1], site.experiment.training.precision)

    def compute(rows: npt.NDArray[np.int64]) -> int:
        """Write the features of one batch; return its number of images."""

        def write(part: slice) -> None:
            """Write the features of a part of the rows, of all views and trunks."""
            images = to_input(pixels[rows[part]], device)
            # Both hold for a thread, and this is one of several.
            with torch.inference_mode(), autocast(device, site.experiment.training.precision):
                for view, mirrored in enumerate(mirror_images(images, VIEWS)):
                    for trunk, features in enumerate(model.features(mirrored)[: shape[2]]):
                        found[rows[part], view, trunk] = features.float().cpu().numpy()

        in_parts(limit, len(rows), len(rows), write)
        return len(rows)

    # Batches side by side, one thread each, wait for one another less than threads that share a batch, above
    # all on a busy machine; and what comes out does not depend on their number. A GPU works on one at a time:
    # while it does, a second thread reads the next.
    before = torch.get_num_threads()
    use_threads(1)
    parts = list(batches(np.arange(len(pixels)), images_at_once(pixels.shape[1], device)))
    workers = threads if device.type == "cpu" else 2
    done = 0
    try:
        with ThreadPoolExecutor(workers) as pool:
            for count in pool.map(compute, parts):
                done += count
                if progress is not None:
                    progress(done, len(pixels))
    finally:
        use_threads(before)
    if not np.isfinite(found).all():
        raise ValueError(f"{path.parent.name}: the trunk's features are not finite; use precision: float32")
    found.flush()
