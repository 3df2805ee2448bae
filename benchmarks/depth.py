"""What fine-tuning depth costs a site: processor seconds of a step and megabytes of a model that is sent.

Of one thread, by the process's own clock, so that a busy machine counts little; read the ratios. Weights are
random: neither depends on them. How well each depth learns, configs/papers/transfer_small.yaml measures.

    python -m benchmarks.depth [--backbone tf_efficientnet_lite0] [--side 112] [--stages 1 2 3]
    python -m benchmarks.depth --shares    what part of each backbone's parameters the last stages are
"""

import argparse
import time
from typing import Any

import numpy as np
import timm
import torch

from fedderm.model.cascade import Cascade
from fedderm.model.stages import LastStages, stages_of
from fedderm.model.state import to_arrays
from fedderm.settings import ModelSettings
from fedderm.training import Stretch, train_locally
from fedderm.training_settings import TrainingSettings
from fedderm.trainset import site_train_set

BATCH, STEPS, REPEATS = 16, 3, 4
BACKBONES = (
    "resnet50",
    "mobilenetv1_100",
    "mobilenetv2_100",
    "inception_v3",
    "densenet169",
    "inception_resnet_v2",
    "tf_efficientnet_lite0",
    "vit_base_patch16_224",
    "convnext_small",
)


def measured(model: ModelSettings, training: TrainingSettings) -> tuple[float, float]:
    """Return processor seconds of a step, the least of REPEATS means, and the megabytes sent."""
    whole: Cascade = Cascade(model, pretrained=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = LastStages(whole, model, training) if training.trunk == "last_stages" else whole
    side = model.image_size
    pixels = np.random.default_rng(1).integers(0, 256, (2 * BATCH, side, side, 3), dtype=np.uint8)
    rows = np.arange(len(pixels))
    data, seconds = site_train_set(pixels, rows, rows % 4, training), []
    for _ in range(REPEATS):
        start = time.process_time()
        train_locally(network, data, training, Stretch(1, 1), [1])
        seconds.append((time.process_time() - start) / STEPS)
    return min(seconds), sum(array.nbytes for array in to_arrays(network).values()) / 1e6


def print_shares(counts: list[int]) -> None:
    """Print the part of each backbone's parameters that its last stages have."""
    print(f"{'parameters in the last stages':32}" + "".join(f"{count:>8}" for count in counts))
    for name in BACKBONES:
        with torch.device("meta"):
            network = timm.create_model(name, num_classes=0)
        sizes = {key: one.numel() for key, one in network.named_parameters()}
        stages = stages_of(network)
        parts = [sum(sizes[key] for stage in stages[-count:] for key in stage) for count in counts]
        told = "".join(f"{part / sum(sizes.values()):>8.1%}" for part in parts)
        print(f"{f'{name}, of {len(stages)}':32}{told}")


def main() -> None:
    """Print a line a depth, with what part it is of training all layers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--shares", action="store_true", help="parameters alone, of many backbones")
    given = parser.parse_args()
    if given.shares:
        print_shares(given.stages)
        return
    torch.set_num_threads(1)
    model = ModelSettings(backbone=given.backbone, pretrained="none", image_size=given.side)
    common = {"batch_size": BATCH, "local_steps": STEPS}
    depths: dict[str, dict[str, Any]] = {
        "all": {},
        **{f"last {count}": {"trunk": "last_stages", "last_stages": count} for count in given.stages},
    }
    print(f"{given.backbone}, {given.side} pixels, a step of {BATCH} images")
    print(f"{'depth':10}{'CPU s a step':>14}{'of all':>9}{'MB sent':>10}{'of all':>9}")
    whole: tuple[float, float] | None = None
    for title, changes in depths.items():
        step, sent = measured(model, TrainingSettings.model_validate(common | changes))
        whole = whole or (step, sent)
        print(f"{title:10}{step:>14.3f}{step / whole[0]:>9.2f}{sent:>10.2f}{sent / whole[1]:>9.2f}")


if __name__ == "__main__":
    main()
