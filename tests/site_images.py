"""Small sites of real image files, for the tests of pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from sites.catalogue import SiteData
from sites.folder import FolderSite


def lesion_image(seed: int, height: int = 150, width: int = 200) -> NDArray[np.uint8]:
    """Return a dark textured blob on brighter textured skin, `(H, W, 3)`; each seed another."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    noise = [gaussian_filter(rng.normal(size=(height, width)), sigma) for sigma in (2, 5, 12)]
    texture = sum(n / n.std() for n in noise) / 3
    y, x = np.mgrid[:height, :width]
    centre = rng.uniform(0.4, 0.6, 2) * (height, width)
    blob = np.hypot((y - centre[0]) / height, (x - centre[1]) / width) + 0.04 * texture < rng.uniform(
        0.15, 0.3
    )
    tone = np.where(blob[..., None], (110, 70, 60), (220, 170, 150)) + 18 * texture[..., None]
    return np.clip(np.rint(tone), 0, 255).astype(np.uint8)


def write_images(folder: Path, count: int, first_seed: int = 0) -> Path:
    """Return the folder, holding img00.png, img01.png, ..."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(lesion_image(first_seed + number)).save(folder / f"img{number:02d}.png")
    return folder


def site_data(
    folder: Path,
    name: str = "clinic",
    files: Sequence[Path] | None = None,
    set_aside: pd.DataFrame | None = None,
    columns: dict[str, Any] | None = None,
    **settings: Any,
) -> SiteData:
    """Return a site of a folder's images, every second one malignant, each its own lesion, all in train."""
    files = sorted(folder.iterdir()) if files is None else files
    ids = [file.stem for file in files]
    malignant = [number % 2 for number in range(len(files))]
    table = pd.DataFrame(
        {
            "image_id": ids,
            "path": [str(file) for file in files],
            "lesion_id": [f"{name}-{image}" for image in ids],
            "patient_id": pd.Series([None] * len(ids), dtype="str"),
            "diagnosis": ["mel" if m else "nv" for m in malignant],
            "class_index": malignant,
            "split": "train",
        }
    ).assign(**(columns or {}))
    if set_aside is None:
        set_aside = pd.DataFrame({"image_id": [], "path": [], "reason": []}, dtype="str")
    return SiteData(FolderSite(name=name, source="folder", path=folder, **settings), table, set_aside)
