"""Sites that share a GPU: images a second that they train together; and batches that memory does not hold.

Plain processes that run the worker's own code, so that it can be measured where there is no Ray.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch

from benchmarks.gpu_steps import Case, Ours
from fedderm.devices import use_threads
from fedderm.model.state import to_arrays
from fedderm.training import Stretch, train_locally


def throughput(case: Case, counts: tuple[int, ...], seconds: float) -> list[dict[str, Any]]:
    """Return the images a second of ``counts`` workers at a time, and the GPU's memory that they took."""
    command = [sys.executable, "-m", "benchmarks.gpu_workers", json.dumps(asdict(case))]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(max(counts))
    ]
    try:
        found = []
        for worker in workers:
            _told(worker)
        used = memory_used(case.device)
        for count in counts:
            for worker in workers[:count]:
                _tell(worker, seconds)
            rates = [_told(worker)["images_per_second"] for worker in workers[:count]]
            found.append({**asdict(case), "workers": count, "images_per_second": sum(rates)})
        found[-1]["gib_each"] = used / len(workers) / 2**30
        return found
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _tell(worker: "subprocess.Popen[str]", seconds: float) -> None:
    assert worker.stdin is not None
    print(seconds, file=worker.stdin, flush=True)


def _told(worker: "subprocess.Popen[str]") -> Any:
    assert worker.stdout is not None
    return json.loads(worker.stdout.readline())


def memory_used(device: str) -> int:
    """Return the bytes of the GPU that are taken by all processes."""
    if device != "cuda":
        return 0
    query = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout) * 2**20


def worker() -> None:
    """Train for as long as each line of the input says; tell the images a second."""
    case = Case(**json.loads(sys.argv[1]))
    use_threads(1)
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (4 * case.batch, case.side, case.side, 3), dtype=np.uint8)
    ours = Ours(case, pixels)
    ours.run(5)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < float(line):
            ours.run(10)
            steps += 10
        rate = steps * case.batch / (time.perf_counter() - start)
        print(json.dumps({"images_per_second": rate}), flush=True)


_STEP: Final[dict[str, Any]] = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "learning_rate": 1.0,
    "local_steps": 1,
}


@dataclass(frozen=True)
class _Stepped:
    way: np.ndarray
    micro_batch: int
    peak: int


def halving(case: Case, room: float, precision: str) -> dict[str, Any]:
    """Take one step with all of the memory and one with ``room`` of what that needed; compare the gradients.

    The step is SGD's, so that the way from the first weights is the gradient. ``difference`` is the halved
    batch's from the whole one's, ``difference_of_two_alike`` that of two whole ones, and ``rounding`` the
    whole one's from one in float32 without TF32: what the precision costs by itself. All as parts of the
    gradient's norm. ``precision`` is ``exact`` (float32 without TF32) or fedderm's.
    """
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (2 * case.batch, case.side, case.side, 3), dtype=np.uint8)
    whole, again = (_stepped(case, pixels, precision) for _ in range(2))
    exact = _stepped(case, pixels, "exact")
    with memory_left(int(room * whole.peak)):
        halved = _stepped(case, pixels, precision)
    size = float(np.linalg.norm(whole.way))
    return {
        **asdict(case),
        "precision": precision,
        "micro_batch": halved.micro_batch,
        "peak_gib": [whole.peak / 2**30, halved.peak / 2**30],
        "difference": float(np.linalg.norm(halved.way - whole.way)) / size,
        "difference_of_two_alike": float(np.linalg.norm(again.way - whole.way)) / size,
        "rounding": float(np.linalg.norm(exact.way - whole.way)) / size,
    }


@contextlib.contextmanager
def memory_left(size: int) -> Iterator[None]:
    """Let this process have ``size`` bytes of the GPU; on a CPU nothing changes."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _stepped(case: Case, pixels: Any, precision: str) -> _Stepped:
    exact = precision == "exact"
    ours = Ours(case, pixels, precision="float32" if exact else precision, **_STEP)  # with the first weights
    ours.model = deepcopy(ours.model)  # what its memory holds is not known yet
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact
    start = to_arrays(ours.model)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    result = train_locally(ours.model, ours.data, ours.settings, Stretch(1, 1), (1, 1, 1))
    end = to_arrays(ours.model)
    way = np.concatenate(
        [np.subtract(end[name], start[name]).ravel() for name in start if start[name].dtype.kind == "f"]
    )
    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    return _Stepped(way, result.micro_batch, peak)


if __name__ == "__main__":
    if sys.argv[1].startswith("{"):
        worker()
    else:
        parser = argparse.ArgumentParser(description="one worker of benchmarks.gpu; it starts them itself")
        parser.error("run python -m benchmarks.gpu")
