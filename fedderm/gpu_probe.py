"""What one site needs of a GPU, measured: a process of its own trains some steps and scores a batch.

``python -m fedderm.gpu_probe`` reads an experiment's JSON and prints one line of JSON. Whoever asks keeps no
CUDA context, which would take part of the very memory that is to be shared (fedderm.gpu_sharing).
"""

import json
import sys
from typing import Any, Final

import numpy as np
import torch

from fedderm.config import from_json
from fedderm.inference import images_at_once, score_images, side_of
from fedderm.model.cascade import Cascade
from fedderm.model.frozen import is_trunk
from fedderm.model.heads import Heads
from fedderm.model.state import parameter_arrays, to_arrays
from fedderm.settings import Experiment
from fedderm.training import Stretch, train_locally
from fedderm.trainset import Images, site_train_set
from fedderm.worker_models import worker_model
from strategies.catalogue import site_side
from strategies.site_side import LocalObjective

STEPS: Final = 3
"""The optimiser's memory is there from the first step's end; the allocator has settled by the third."""


def site_work(experiment: Experiment) -> dict[str, int]:
    """Train some steps and score a batch, as a site of the experiment would, on the device that it names.

    Return ``batch`` and ``micro_batch``, the images that went through the network at a time in training.
    Raises ValueError where memory does not hold one image.
    """
    model, images = _model_and_images(experiment)
    settings = experiment.training.model_copy(update={"local_steps": STEPS, "local_epochs": None})
    count = settings.batch_size
    # A batch of one has one class, and a site needs both: two images are there, one is drawn.
    rows = np.arange(max(2, count)) % len(images)
    data = site_train_set(images, rows, np.arange(len(rows)) % 4, settings)
    result = train_locally(model, data, settings, Stretch(1, 1), (1, 1, 1), _objective(experiment, model))
    device = next(model.parameters()).device
    at_once = min(images_at_once(side_of(images), device), 4096)
    score_images(model, images, np.arange(at_once) % len(images), precision=settings.precision)
    return {"batch": count, "micro_batch": result.micro_batch}


def _model_and_images(experiment: Experiment) -> tuple[Heads, Images]:
    """Return the worker's own model with random weights, and random images of the kind it takes."""
    whole = Cascade(experiment.model, pretrained=False)
    arrays, side = to_arrays(whole), experiment.model.image_size
    rng, count = np.random.default_rng(1), max(2, experiment.training.batch_size)
    if experiment.training.trunk == "frozen":
        heads = {name: array for name, array in arrays.items() if not is_trunk(name)}
        features = (count, 4, len(whole.trunks), whole.triage.in_features)
        return worker_model(experiment, heads), rng.standard_normal(features, dtype=np.float32)
    return worker_model(experiment, arrays), rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def _objective(experiment: Experiment, model: Heads) -> LocalObjective:
    """Return an objective that needs as much memory as the experiment's method at most."""
    side = site_side(experiment.strategy.name)
    if side.stateful and side.keeps is None:  # control variates or multipliers, each as large as the model
        zeros = {name: np.zeros_like(one) for name, one in parameter_arrays(model).items()}
        return LocalObjective(1.0, zeros)
    return LocalObjective(experiment.strategy.proximal_mu)


def main() -> None:
    """Print what the experiment on standard input needs, as JSON: bytes, or ``error`` with a sentence."""
    try:
        found: dict[str, Any] = dict(site_work(from_json(sys.stdin.read())))
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
        return
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    found |= {
        "total": total,
        "in_use": total - free,
        "reserved": torch.cuda.memory_reserved(),
        "most_reserved": torch.cuda.max_memory_reserved(),
        "most_allocated": torch.cuda.max_memory_allocated(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
