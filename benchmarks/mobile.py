"""How large a model is as exported, and how long one image takes on a CPU: onnxruntime, one image at a time.

The weights are the backbone's own and the heads are at zero: neither changes size or time.

    python -m benchmarks.mobile [--backbone tf_efficientnet_lite0] [--side 112 224]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.claims import told
from fedderm.evaluation.documents import OperatingPoint
from fedderm.exported import export_model
from fedderm.model.cascade import Cascade
from fedderm.model.state import to_arrays
from fedderm.settings import ModelSettings
from fedderm.weights import save_arrays


def write_model(folder: Path, settings: ModelSettings, views: int) -> int:
    """Write a model's folder; return the bytes of its float32 weights."""
    point = OperatingPoint(
        calibration="identity",
        slope=1.0,
        intercept=0.0,
        threshold=0.0,
        threshold_probability=0.5,
        origin="None: for measuring size and time.",
    )
    description = {
        "model": settings.model_dump(mode="json"),
        "views": views,
        "federation_point": point.model_dump(mode="json"),
        "site_points": {},
    }
    save_arrays(folder / "model.safetensors", to_arrays(Cascade(settings)))
    (folder / "model.json").write_text(json.dumps(description))
    return (folder / "model.safetensors").stat().st_size


def latencies(path: Path, side: int, threads: int, images: int) -> tuple[float, float]:
    """Return the median and the 95th percentile of milliseconds an image; the first ten are not counted."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(1).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    taken = []
    for _ in range(images + 10):
        start = time.perf_counter()
        session.run(["probability"], {"pixels": pixels})
        taken.append(1000 * (time.perf_counter() - start))
    return float(np.median(taken[10:])), float(np.quantile(taken[10:], 0.95))


def main() -> None:
    """Print a row for each size and number of views."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--backbone", default="tf_efficientnet_lite0")
    arguments.add_argument("--pretrained", default="package")
    arguments.add_argument("--side", type=int, nargs="+", default=[112, 224])
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--images", type=int, default=100)
    asked = arguments.parse_args()
    print(f"{asked.backbone}, {asked.threads} thread(s), median and 95th percentile of {asked.images} images")
    print("| pixels | views | float32 weights, MB | ONNX, MB | ms an image | 95 % below |")
    print("|---|---|---|---|---|---|")
    for side in asked.side:
        for views in (1, 4):
            with tempfile.TemporaryDirectory(prefix="bench-") as name:
                settings = ModelSettings(
                    backbone=asked.backbone, pretrained=asked.pretrained, image_size=side
                )
                weights = write_model(Path(name), settings, views)
                to = Path(name) / "model.onnx"
                export_model(Path(name), None, to)
                usual, slow = latencies(to, side, asked.threads, asked.images)
                cells = (side, views, f"{weights / 1e6:.1f}", f"{to.stat().st_size / 1e6:.1f}")
            print(f"| {' | '.join(map(str, cells))} | {usual:.1f} | {slow:.1f} |", flush=True)


if __name__ == "__main__":
    told(main)
