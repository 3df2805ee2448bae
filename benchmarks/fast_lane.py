"""Seconds of one site's round on a frozen trunk, with the feature cache and without it, side by side.

Without the cache the same loop sends every batch through the trunk, which needs no gradient, and the
evaluation every test image. Random pixels: what they show does not change the time. Seconds are of the
processor, one thread, so that a busy machine blurs them less.

    OMP_NUM_THREADS=1 python -m benchmarks.fast_lane
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fedderm import config
from fedderm.feature_cache import CachedSite, open_features
from fedderm.inference import score_images
from fedderm.model.cascade import Cascade
from fedderm.model.frozen import frozen_trunk, initial_model
from fedderm.model.heads import Heads
from fedderm.settings import Experiment
from fedderm.training import Stretch, train_locally
from fedderm.trainset import Images, site_train_set


def experiment(work_dir: Path, steps: int, batch: int) -> Experiment:
    """Return a frozen EfficientNet-Lite0 with random weights, which cost what ImageNet's cost."""
    return config.parse(
        {
            "name": "fast-lane",
            "work_dir": str(work_dir),
            "model": {"pretrained": "none"},
            "training": {"trunk": "frozen", "local_steps": steps, "batch_size": batch},
            "sites": [{"name": "clinic", "source": "simulated"}],
        }
    )


def seconds(work: Callable[[], object]) -> float:
    """Return the processor's seconds of ``work``."""
    start = time.process_time()
    work()
    return time.process_time() - start


def round_seconds(model: Heads, images: Images, tested: int, chosen: Experiment) -> tuple[float, float]:
    """Return the seconds of a round's training and of scoring ``tested`` images."""
    classes = np.arange(len(images)) % 4
    data = site_train_set(images, np.arange(len(images)), classes, chosen.training)
    train_locally(model, data, chosen.training, Stretch(1, 1), (1, 1, 1))  # what is lazy happens here
    trained = seconds(lambda: train_locally(model, data, chosen.training, Stretch(1, 1), (1, 1, 1)))
    return trained, seconds(lambda: score_images(model, images, np.arange(tested)))


def main() -> None:
    """Print a table: the round with and without the cache, and what the cache costs once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("images", 1000), ("tested", 500), ("steps", 53), ("batch", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pixels = np.random.default_rng(1).integers(0, 256, (given.images, 112, 112, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        chosen = experiment(Path(folder), given.steps, given.batch)
        model = initial_model(chosen.model, chosen.seed)
        site = CachedSite(pixels, "clinic", chosen, frozen_trunk(model).digest)
        once = seconds(lambda: open_features(site))
        model.trunks.requires_grad_(False)
        whole: Cascade = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        slow = round_seconds(whole, pixels, given.tested, chosen)
        fast = round_seconds(
            Heads(chosen.model, model.triage.in_features), open_features(site), given.tested, chosen
        )
    print(f"{given.steps} steps of {given.batch} images, {given.tested} test images; seconds of one thread")
    print(f"{'':24}{'through the trunk':>20}{'from the cache':>18}{'ratio':>10}")
    for title, one, two in (
        ("training", slow[0], fast[0]),
        ("evaluation, one view", slow[1], fast[1]),
        ("a round", sum(slow), sum(fast)),
    ):
        print(f"{title:24}{one:>20.3f}{two:>18.3f}{one / two:>10.0f}")
    print(f"a step: {1000 * slow[0] / given.steps:.1f} ms, {1000 * fast[0] / given.steps:.2f} ms")
    rounds = once / sum(slow)
    print(f"once, {given.images} images in 4 views: {once:.1f} s; {rounds:.1f} rounds through the trunk")


if __name__ == "__main__":
    main()
