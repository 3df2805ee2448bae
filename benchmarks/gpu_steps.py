"""The step of fedderm's local training against a bare loop on synthetic data, on one device.

The bare loop is what a person would write to see how fast a network can be trained: one batch that lies on
the device, bfloat16 autocast, fused AdamW, no augmentation, no data. Both train the same timm network;
BatchNorm layers keep their statistics in both.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedderm import config, training
from fedderm.augment import draw
from fedderm.batches import Batch, training_batches
from fedderm.devices import autocast
from fedderm.model.backbones import timm_name
from fedderm.model.cascade import Cascade
from fedderm.model.state import to_arrays
from fedderm.settings import Experiment, ModelSettings
from fedderm.trainset import Images, TrainSet, site_train_set
from fedderm.weights import Arrays
from fedderm.worker_models import worker_model


@dataclass(frozen=True)
class Case:
    """A network, the pixels a side of its images, a batch, and where it is trained: ``cuda`` or ``cpu``."""

    net: str
    side: int
    batch: int
    device: str

    def experiment(self, **training_settings: Any) -> Experiment:
        """Return an experiment that trains this case."""
        chosen = {"batch_size": self.batch, "learning_rate": 0.0001, **training_settings}
        return config.parse(
            {
                "name": "gpu",
                "model": {"backbone": self.net, "pretrained": "none", "image_size": self.side},
                "training": chosen,
                "resources": {"gpus_per_site": float(self.device == "cuda")},
                "sites": [{"name": "clinic", "source": "simulated"}],
            }
        )


def train_set(pixels: Images, case: Case) -> TrainSet:
    """Return the random ``pixels`` (N, S, S, 3), of whose classes half are malignant."""
    rows = np.arange(len(pixels))
    return site_train_set(pixels, rows, np.where(rows % 2, 1 + rows % 3, 0), case.experiment().training)


@lru_cache(maxsize=1)
def first_arrays(settings: ModelSettings) -> Arrays:
    """Return random weights, drawn once for all trainings of a network."""
    torch.manual_seed(1)
    return to_arrays(Cascade(settings, pretrained=False))


class Ours:
    """fedderm's training of one case, with the worker's own model."""

    def __init__(self, case: Case, pixels: Images, **training_settings: Any) -> None:
        experiment = case.experiment(**training_settings)
        self.model = worker_model(experiment, first_arrays(experiment.model))
        self.settings = experiment.training
        self.device = next(self.model.parameters()).device
        self.data = train_set(pixels, case)

    def run(self, steps: int) -> float:
        """Return the seconds of a local training of so many steps."""
        chosen = self.settings.model_copy(update={"local_steps": steps, "local_epochs": None})
        synchronise(self.device)
        start = time.perf_counter()
        training.train_locally(self.model, self.data, chosen, training.Stretch(1, 1), (1, 1, 1))
        synchronise(self.device)
        return time.perf_counter() - start


class Bare:
    """The bare loop over one case."""

    def __init__(self, case: Case, memory_format: torch.memory_format) -> None:
        self.device = torch.device(case.device)
        size: dict[str, Any] = {"img_size": case.side} if _has_fixed_size(case.net) else {}
        with self.device:  # random weights are drawn there in no time
            model = timm.create_model(timm_name(case.net), num_classes=4, **size)
        moved: nn.Module = model.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]
        self.model = moved.train()
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        images = torch.randn(case.batch, 3, case.side, case.side, device=self.device)
        self.images = images.to(memory_format=memory_format)
        self.classes = torch.randint(4, (case.batch,), device=self.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=0.0001, fused=self.device.type == "cuda"
        )

    def run(self, steps: int) -> float:
        """Return the seconds of so many steps."""
        synchronise(self.device)
        start = time.perf_counter()
        for _ in range(steps):
            with autocast(self.device, "auto"):
                loss = F.cross_entropy(self.model(self.images), self.classes)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        synchronise(self.device)
        return time.perf_counter() - start


def _has_fixed_size(net: str) -> bool:
    found = timm.get_pretrained_cfg(timm_name(net))
    return bool(found and found.fixed_input_size)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def milliseconds(
    runners: Mapping[str, Ours | Bare], lengths: tuple[int, int], repeats: int
) -> dict[str, float]:
    """Return each runner's milliseconds a step, medians over ``repeats`` that take turns.

    A step's are those of a long training minus a short one's, over the steps between: starts cancel.
    """
    short, long = lengths
    found: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        runner.run(short)
    for _ in range(repeats):
        for name, runner in runners.items():
            seconds = [runner.run(length) for length in lengths]
            found[name].append(1000 * (seconds[1] - seconds[0]) / (long - short))
    return {name: median(times) for name, times in found.items()}


def compare(case: Case, pixels: Images, lengths: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Return milliseconds a step of both, their ratio, memory, and what loader and augmentation cost."""
    bare = {name: Bare(case, one) for name, one in _FORMATS.items()}
    formats = milliseconds(bare, lengths, 1)
    quicker = min(formats, key=lambda name: formats[name])
    del bare[next(name for name in _FORMATS if name != quicker)]
    ours = Ours(case, pixels)
    steps = milliseconds({"ours": ours, "bare": bare[quicker]}, lengths, repeats)
    found: dict[str, Any] = {
        **asdict(case),
        "ours_ms": steps["ours"],
        "bare_ms": steps["bare"],
        "ratio": steps["bare"] / steps["ours"],
        "images_per_second": 1000 * case.batch / steps["ours"],
        "bare_format": quicker,
        "bare_ms_by_format": formats,
    }
    found["peak_gib"] = {
        name: _peak(one, lengths[0]) for name, one in (("ours", ours), ("bare", bare[quicker]))
    }
    with _resident(ours, case):
        found["without_loader_ms"] = milliseconds({"": ours}, lengths, 1)[""]
    with waits() as found_waits:
        total = ours.run(lengths[1])
        found["waited_for_batches"] = sum(found_waits) / total
    ours.settings = case.experiment(augmentation={"geometry": 0, "colour": 0}).training
    found["without_augmentation_ms"] = milliseconds({"": ours}, lengths, 1)[""]
    return found


_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def _peak(runner: Ours | Bare, steps: int) -> float:
    if runner.device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    runner.run(steps)
    return torch.cuda.max_memory_allocated() / 2**30


@contextlib.contextmanager
def _resident(ours: Ours, case: Case) -> Iterator[None]:
    """Let the training see one batch again and again that lies on the device already: no loader."""
    images = torch.randint(0, 256, (case.batch, case.side, case.side, 3), dtype=torch.uint8)
    settings = ours.settings.augmentation
    drawn = draw(case.batch, settings, torch.Generator().manual_seed(1))
    batch = Batch(images.to(ours.device), drawn.to(ours.device), settings)

    @contextlib.contextmanager
    def batches(data: TrainSet, chosen: Sequence[Any], *_: Any) -> Iterator[Iterator[Batch]]:
        del data
        yield (batch for _ in chosen)

    with patch.object(training, "training_batches", batches):
        yield


@contextlib.contextmanager
def waits() -> Iterator[list[float]]:
    """Yield the seconds for which each step waited for its batch."""
    found: list[float] = []

    def timed(batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            found.append(time.perf_counter() - start)
            if batch is None:
                return
            yield batch

    @contextlib.contextmanager
    def watched(*given: Any) -> Iterator[Iterator[Batch]]:
        with training_batches(*given) as batches:
            yield timed(batches)

    with patch.object(training, "training_batches", watched):
        yield found


def compiled(case: Case, pixels: Images, lengths: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Return what ``torch.compile`` costs once and spares a step, and after how many steps that pays."""
    ours = Ours(case, pixels)
    eager = milliseconds({"": ours}, lengths, repeats)[""]
    warm = ours.run(lengths[0])
    ours.model.compile()
    cost = ours.run(lengths[0]) - warm
    fast = milliseconds({"": ours}, lengths, repeats)[""]
    spared = eager - fast
    return {
        **asdict(case),
        "eager_ms": eager,
        "compiled_ms": fast,
        "speed_up": eager / fast,
        "compile_s": cost,
        "steps_to_pay": 1000 * cost / spared if spared > 0 else None,
    }


def main() -> None:
    """Measure one compiled case, in a process of its own: ``NET SIDE BATCH DEVICE SHORT LONG REPEATS``."""
    net, side, batch, device, *numbers = sys.argv[1:]
    short, long, repeats = (int(one) for one in numbers)
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (2 * int(batch), int(side), int(side), 3), dtype=np.uint8)
    found = compiled(Case(net, int(side), int(batch), device), pixels, (short, long), repeats)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
