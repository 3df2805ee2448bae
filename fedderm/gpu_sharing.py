"""``resources.gpus_per_site: auto``: how many sites share a GPU, from what one of them was seen to need."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fedderm.config import to_json
from fedderm.runtime import Resources, gpus
from fedderm.settings import Experiment

HEAD_ROOM: Final = 1.1
"""A site is given as much of its measured need: allocators fragment, and libraries load kernels late."""
USABLE: Final = 0.95
"""Of a GPU's memory that other programs leave free."""
_SMALLEST_CONTEXT: Final = 300 * 2**20
"""Bytes of a process's CUDA context at least, should another program have let go of memory meanwhile."""
_TIMEOUT: Final = 600.0


@dataclass(frozen=True)
class Need:
    """What one site takes of a GPU, in bytes, and what there is."""

    gpu: str
    total: int
    taken: int
    """By other programs, before."""
    site: int
    """By one worker process, its CUDA context included."""
    batch: int
    micro_batch: int
    """Images that memory holds at a time of a batch of ``batch``."""


@dataclass(frozen=True)
class Sharing:
    """What was decided, and the sentence that says so."""

    gpus_per_site: float
    sentence: str


def share(need: Need, count: int, wanted: int) -> Sharing:
    """Return the fraction of a GPU for each site where ``wanted`` sites would work at a time on ``count``
    GPUs.

    Raises ValueError where a GPU's memory does not hold one site.
    """
    free = USABLE * (need.total - need.taken)
    fitting = int(free / (HEAD_ROOM * need.site))
    takes = f"a site takes {_gib(need.site)} of the {_gib(need.total)} of {need.gpu}"
    if need.taken > 0.01 * need.total:
        takes += f", of which other programs have {_gib(need.taken)}"
    if fitting < 1:
        raise ValueError(
            f"resources.gpus_per_site: auto: {takes}; free memory there, lower training.batch_size or "
            "model.image_size, or set gpus_per_site to 0 for the CPU"
        )
    each = min(fitting, math.ceil(wanted / count))
    # Ray counts in ten-thousandths; rounded down, so that this many add up to one GPU.
    fraction = math.floor(10_000 / each) / 10_000
    workers = min(wanted, each * count)
    sentence = f"{takes}: {workers} at a time on {count} GPU{'s' if count > 1 else ''} ({fraction:g} each)"
    if need.micro_batch < need.batch:
        sentence += f"; a batch of {need.batch} does not fit and is trained in parts of {need.micro_batch}"
    return Sharing(fraction, sentence)


def measure(experiment: Experiment) -> Need:
    """Return what one site of the experiment needs of the first GPU that this process may use.

    Another process finds out (fedderm.gpu_probe), in 10 to 30 seconds. Raises ValueError where it cannot.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    name, used = _asked(first)
    environment = {
        **os.environ,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # nvidia-smi's
        "CUDA_VISIBLE_DEVICES": first,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    whole = experiment.resources.model_copy(update={"gpus_per_site": 1.0})
    probe = subprocess.run(
        [sys.executable, "-m", "fedderm.gpu_probe"],
        input=to_json(experiment.model_copy(update={"resources": whole})),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
    )
    return need_of(probe.stdout, probe.stderr, name, used)


def need_of(output: str, errors: str, gpu: str, taken: int) -> Need:
    """Return what a probe's ``output`` tells; raises ValueError where it failed."""
    told = output.strip().splitlines()
    try:
        found = json.loads(told[-1])
    except (IndexError, ValueError):
        reason = (errors.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(
            f"resources.gpus_per_site: auto: a site's need could not be measured ({reason[:200]}); give a "
            "number, such as 0.25"
        ) from None
    if "error" in found:
        raise ValueError(f"resources.gpus_per_site: auto: {found['error']}")
    context = max(_SMALLEST_CONTEXT, found["in_use"] - taken - found["reserved"])
    return Need(
        gpu, found["total"], taken, found["most_reserved"] + context, found["batch"], found["micro_batch"]
    )


def settled(
    experiment: Experiment, sites: int, progress: Callable[[str, int, int], None], say: Callable[[str], None]
) -> Resources:
    """Return the resources with a number for ``gpus_per_site``; where it is ``auto``, measure and say so.

    ``sites``: how many there are to work at a time. Raises ValueError where ``auto`` cannot be had.
    """
    resources = experiment.resources
    if resources.gpus_per_site != "auto":
        return resources
    if resources.address is not None:
        raise ValueError(
            "resources.gpus_per_site: auto measures this machine's GPU, and resources.address names a "
            "cluster; give a number, such as 0.25"
        )
    count = gpus()
    if count == 0:
        say("no GPU here: sites train on the CPU")
        return resources.model_copy(update={"gpus_per_site": 0.0})
    title = "measure what a site needs of the GPU"
    progress(title, 0, 1)
    need = measure(experiment)
    progress(title, 1, 1)
    on_cpus = resources.model_copy(update={"gpus_per_site": 0.0}).workers_for(sites)
    found = share(need, count, on_cpus)
    say(found.sentence)
    return resources.model_copy(update={"gpus_per_site": found.gpus_per_site})


def _asked(gpu: str) -> tuple[str, int]:
    """Return a GPU's name and the bytes of it that are taken, as the driver tells."""
    program = shutil.which("nvidia-smi") or "nvidia-smi"
    query = [program, "-i", gpu, "--query-gpu=name,memory.used", "--format=csv,noheader,nounits"]
    found = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)
    name, _, used = found.stdout.strip().rpartition(",")
    if found.returncode or not used.strip().isdigit():
        raise ValueError(
            f"resources.gpus_per_site: auto: nvidia-smi does not tell of GPU {gpu} "
            f"({' '.join((found.stdout + found.stderr).split())[:200]}); give a number, such as 0.25"
        )
    return name.strip(), int(used) * 2**20


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
