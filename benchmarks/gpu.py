"""What a GPU does with fedderm's training, measured in minutes: a table at the end, everything as JSON.

    python -m benchmarks.gpu --out out                        # on a machine with a GPU
    python -m benchmarks.gpu --out out --sections compile     # alone: compiling takes minutes
    python -m benchmarks.gpu --out out --device cpu --quick   # whether every line runs; no figures

Sections, in this order: ``tests`` (pytest -m gpu), ``steps`` (the training step against a bare loop),
``halving`` (a batch that memory does not hold), ``probe`` (``gpus_per_site: auto`` against what is used),
``workers`` (sites that share the GPU), ``run`` (a whole small federation), ``compile`` (torch.compile). A
section that fails says so and the next one goes on.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import gpu_tables
from benchmarks.gpu_steps import Case, compare
from benchmarks.gpu_workers import halving, memory_used, throughput
from fedderm.gpu_probe import site_work
from fedderm.gpu_sharing import measure, share

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 1024
_RUN = """
name: gpu
rounds: 2
model: {backbone: tf_efficientnet_lite0, pretrained: package, image_size: 112}
training: {batch_size: 32}
evaluation: {bootstrap: 200}
resources: {gpus_per_site: auto}
sites:
  - {name: north, source: simulated, lesions: 100, case_mix: {prevalence: 0.4}, acquisition: {device_seed: 1}}
  - {name: south, source: simulated, lesions: 100, case_mix: {prevalence: 0.3}, acquisition: {device_seed: 2}}
  - {name: east, source: simulated, role: held-out, lesions: 100, acquisition: {device_seed: 3}}
"""


class Check:
    """The measurements on one device."""

    def __init__(self, device: str, quick: bool, folder: Path) -> None:
        self.device = device
        self.folder = folder
        self.lengths, self.repeats, self.seconds = ((1, 2), 1, 0.5) if quick else ((8, 28), 3, 4.0)
        nets = ("test_vit", "test_convnext") if quick else ("vit_b16", "convnext_s", "tf_efficientnet_lite0")
        batches, side = ((4,), 64) if quick else ((64, 128), 224)
        self.cases = [Case(net, side, batch, device) for net in nets for batch in batches]
        self.shared = [
            Case(nets[0], side, batches[0] // 2, device),
            Case(nets[-1], side, 32 // (2 if quick else 1), device),
        ]

    def tests(self) -> dict[str, Any]:
        """Return how the tests that need a GPU end; all are skipped where there is none."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "gpu",
            "-p",
            "no:cacheprovider",
            "tests/test_gpu.py",
        ]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
        (self.folder / "pytest.log").write_text(found.stdout + found.stderr)
        return {"rc": found.returncode, "tail": found.stdout.strip().splitlines()[-12:]}

    def steps(self) -> list[dict[str, Any]]:
        """Return each case's step against the bare loop, over a memory map of random pixels."""
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for case in self.cases:
                pixels = _pixels(Path(folder) / f"{case.side}.npy", case.side)
                found.append(_told(lambda: compare(case, pixels, self.lengths, self.repeats), asdict(case)))  # noqa: B023
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return found

    def halving(self) -> list[dict[str, Any]]:
        """Return what a batch does that memory does not hold, exactly, in TF32 and as usual."""
        case = self.cases[0]
        return [
            _told(lambda: halving(case, 0.6, precision), {**asdict(case), "precision": precision})  # noqa: B023
            for precision in ("exact", "float32", "auto")
        ]

    def probe(self) -> list[dict[str, Any]]:
        """Return what ``auto`` finds one site to need, and how eight sites would share the GPU."""
        found = []
        for case in self.shared:
            experiment = case.experiment()
            if self.device == "cpu":
                found.append({**asdict(case), **site_work(experiment)})
                continue
            start = time.perf_counter()
            need = measure(experiment)
            seconds = time.perf_counter() - start
            found.append({**asdict(case), **asdict(need), "seconds": seconds, **asdict(share(need, 1, 8))})
        return found

    def workers(self) -> list[dict[str, Any]]:
        """Return the images a second of 1, 2 and 4 workers on the one device."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return [row for case in self.shared for row in throughput(case, (1, 2, 4), self.seconds)]

    def run(self) -> dict[str, Any]:
        """Return how a small federation runs with Flower, Ray and ``gpus_per_site: auto``."""
        config = self.folder / "run.yaml"
        config.write_text(_RUN)
        with tempfile.TemporaryDirectory() as folder:
            code = "from fedderm.cli import main; main()"
            command = [sys.executable, "-c", code, "run", str(config.resolve())]
            start = time.perf_counter()
            found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
            seconds = time.perf_counter() - start
            (self.folder / "run.log").write_text(found.stdout + found.stderr)
            runs = list(Path(folder).glob("runs/gpu/*/rounds/state.json"))
            state = json.loads(runs[0].read_text()) if runs else {}
            for log in Path(folder).glob("runs/gpu/*/flower.log"):
                (self.folder / "flower.log").write_text(log.read_text()[-200_000:])
        history = [
            {"seconds": one["seconds"], "micro_batch": {k: v["micro-batch"] for k, v in one["sites"].items()}}
            for one in state.get("history", [])
        ]
        told = {"finished": state.get("finished"), "sharing": state.get("gpu_sharing"), "rounds": history}
        return {"rc": found.returncode, "seconds": seconds, **told, "tail": found.stdout.splitlines()[-8:]}

    def compile(self) -> list[dict[str, Any]]:
        """Return what ``torch.compile`` costs and spares, each network in a process of its own."""
        found = []
        for case in {one.net: one for one in reversed(self.cases)}.values():
            numbers = [*self.lengths, self.repeats]
            given = [case.net, case.side, case.batch, case.device, *numbers]
            command = [sys.executable, "-m", "benchmarks.gpu_steps", *map(str, given)]
            found.append(_told(lambda: _json_of(command, timeout=200), asdict(case)))  # noqa: B023
        return found


def _json_of(command: list[str], timeout: float) -> Any:
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    if found.returncode:
        raise RuntimeError(found.stderr[-1500:])
    return json.loads(found.stdout.splitlines()[-1])


def _told(work: Callable[[], dict[str, Any]], what: dict[str, Any]) -> dict[str, Any]:
    """Return what ``work`` finds or, where it fails, ``what`` was tried and the error."""
    start = time.perf_counter()
    try:
        found = work()
    except Exception as error:
        traceback.print_exc()
        found = {**what, "error": f"{type(error).__name__}: {error}"[-1500:]}
    print(json.dumps({**found, "took_s": round(time.perf_counter() - start, 1)}), flush=True)
    return found


def _pixels(path: Path, side: int) -> Any:
    """Return a memory map of random pixels, written on first use."""
    if not path.exists():
        made = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(IMAGES, side, side, 3))
        made[:] = np.random.default_rng(1).integers(0, 256, made.shape, dtype=np.uint8)
        made.flush()
    return np.load(path, mmap_mode="r")


def machine(device: str) -> dict[str, Any]:
    """Return the machine and the versions."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "timm", "numpy")},
        "cores": len(os.sched_getaffinity(0)),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu memory (GiB)"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
        found["taken before (GiB)"] = round(memory_used(device) / 2**30, 2)
    return found


SECTIONS = ("tests", "steps", "halving", "probe", "workers", "run", "compile")


def main() -> None:
    """Measure the sections asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sections", default=",".join(SECTIONS[:-1]), help="of these, in the order given")
    parser.add_argument("--nets", default="", help="of these alone, such as vit_b16,convnext_s")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    if unknown := set(given.sections.split(",")) - set(SECTIONS):
        parser.error(f"--sections: no {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    check = Check(given.device, given.quick, given.out)
    if given.nets:
        check.cases = [case for case in check.cases if case.net in given.nets.split(",")]
    found: dict[str, Any] = {"machine": machine(given.device)}
    for name in given.sections.split(","):
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        try:
            found[name] = getattr(check, name)()
        except Exception as error:
            traceback.print_exc()
            found[name] = {"error": f"{type(error).__name__}: {error}"}
        found[f"{name}_took_s"] = round(time.perf_counter() - start, 1)
        (given.out / "gpu.json").write_text(json.dumps(found, indent=1))
    print(gpu_tables.table(found))


if __name__ == "__main__":
    main()
