"""Sites for measurements: noise images in folders, as many in the train split as a benchmark asks for.

What the images show does not change a step's time, and a folder of PNG files is made in a hundredth of the
time that rendering takes. They go the way of a hospital's own folder: table, audit, pixel cache.
"""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fedderm import config
from fedderm.settings import Experiment

_SPARE = 4
"""Images beside the train split: a malignant and a benign one each for calibration and test."""


def experiment(
    folder: Path, sizes: Sequence[int], image_size: int, workers: int | None = None, **changes: Any
) -> Experiment:
    """Return an experiment over new sites in ``folder``; site i trains on ``sizes[i]`` images, an even
    number.

    Sites are evaluated once, after the last round, without intervals. ``workers``: None is one for each core.
    ``changes`` are merged into the config's sections. Raises ValueError for an odd size.
    """
    raw: dict[str, Any] = {
        "name": "benchmark",
        "work_dir": str(folder / "cache"),
        "runs_dir": str(folder / "runs"),
        "model": {"backbone": "test_resnet", "pretrained": "none", "image_size": image_size},
        "training": {"batch_size": 16},
        "evaluation": {"bootstrap": 0, "views": 1, "every": 1_000_000},
        "resources": {"workers": workers or len(os.sched_getaffinity(0))},
        "sites": [_site(folder / "sites", place, size, image_size) for place, size in enumerate(sizes)],
    }
    for section, values in changes.items():
        raw[section] = {**raw.get(section, {}), **values} if isinstance(values, Mapping) else values
    return config.parse(raw)


def _site(folder: Path, place: int, size: int, image_size: int) -> dict[str, Any]:
    if size % 2 or size < 2:
        raise ValueError(f"a benchmark's site has an even number of training images, not {size}")
    name, total = f"site-{place:04d}", size + _SPARE
    path = folder / name
    path.mkdir(parents=True)
    rng = np.random.default_rng(place)
    with (path / "table.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image_id", "diagnosis"])
        for index in range(total):
            image = f"{name}-{index:04d}"
            noise = rng.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path / f"{image}.png", compress_level=0)
            table.writerow([image, "mel" if index % 2 else "nv"])
    spare = _SPARE / 2 / total
    return {
        "name": name,
        "source": "folder",
        "path": str(path),
        "splits": {"train": 1 - 2 * spare, "calibration": spare, "test": spare},
    }
