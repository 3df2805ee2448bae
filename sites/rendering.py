"""Rendering planned lesions into a folder, in this process or in several.

Workers are plain ``python -m sites.rendering`` processes: unlike a pool they neither re-run the caller's
main module nor inherit the threads of Ray or torch. Each lesion has its own random stream, so the files do
not depend on their number.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sites.lesions import RenderedLesion, render_views

JPEG_QUALITY = 95
# Starting Python and numpy costs as much as rendering some fifteen lesions.
_WORTH_A_PROCESS = 40


@dataclass(frozen=True)
class PlannedLesion:
    """What to render: one lesion, in ``views`` images named ``<lesion_id>_<view>.jpg``."""

    lesion_id: str
    entropy: tuple[int, ...]
    diagnosis: str
    age: float
    skin_type: str
    views: int


def image_name(lesion_id: str, view: int) -> str:
    """Return the id of an image of a lesion; its file adds ``.jpg``."""
    return f"{lesion_id}_{view}"


def render_all(
    plan: Sequence[PlannedLesion],
    folder: Path,
    *,
    size: int,
    masks: bool,
    workers: int,
    progress: Callable[[int], None],
) -> None:
    """Write every planned image to ``folder/images`` and, with ``masks``, its truth to ``folder/masks``.

    ``progress`` is called with the number of lesions finished so far. Raises OSError where a file cannot be
    written.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if masks:
        (folder / "masks").mkdir(exist_ok=True)
    workers = max(1, min(workers, len(plan) // _WORTH_A_PROCESS))
    if workers == 1:
        for done, _ in enumerate(_render(plan, folder, size, masks), start=1):
            progress(done)
        return
    # Interleaved, since neighbours may differ in their number of images.
    _in_processes([plan[i::workers] for i in range(workers)], folder, size, masks, progress)


def _render(plan: Sequence[PlannedLesion], folder: Path, size: int, masks: bool) -> Iterator[None]:
    for lesion in plan:
        rng = np.random.default_rng(np.random.SeedSequence(lesion.entropy))
        views = render_views(lesion.diagnosis, rng, lesion.views, size, lesion.skin_type, lesion.age, masks)
        for number, view in enumerate(views):
            name = image_name(lesion.lesion_id, number)
            Image.fromarray(view.image).save(folder / "images" / f"{name}.jpg", quality=JPEG_QUALITY)
            if masks:
                _save_masks(view, folder / "masks", name)
        yield


def _save_masks(view: RenderedLesion, folder: Path, name: str) -> None:
    for pattern, mask in {"lesion": view.lesion_mask, **view.pattern_masks}.items():
        Image.fromarray(mask).save(folder / f"{name}_{pattern}.png")


def _in_processes(
    parts: Sequence[Sequence[PlannedLesion]],
    folder: Path,
    size: int,
    masks: bool,
    progress: Callable[[int], None],
) -> None:
    """Run a worker for each part and count the lines they print, one a lesion."""
    root = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    # One thread each: the workers themselves fill the cores.
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    workers: list[subprocess.Popen[str]] = []
    lock, done = threading.Lock(), [0]

    def follow(worker: subprocess.Popen[str], part: Sequence[PlannedLesion]) -> None:
        """Give a worker its part of the plan and count the lesions it reports, until its output ends."""
        if worker.stdin is None or worker.stdout is None:
            raise OSError("a rendering process has no pipes")
        job = {
            "folder": str(folder),
            "size": size,
            "masks": masks,
            "plan": [asdict(lesion) for lesion in part],
        }
        try:
            worker.stdin.write(json.dumps(job))
            worker.stdin.close()
        except BrokenPipeError:
            return  # It has died; its exit status and message are read below.
        for _ in worker.stdout:
            with lock:
                done[0] += 1
                progress(done[0])

    errors = [folder / f"worker{i}.log" for i in range(len(parts))]
    try:
        for log in errors:
            with log.open("w") as stderr:
                command = [sys.executable, "-m", "sites.rendering"]
                pipe = subprocess.PIPE
                workers.append(
                    subprocess.Popen(
                        command, stdin=pipe, stdout=pipe, stderr=stderr, text=True, env=environment
                    )
                )
        followers = [
            threading.Thread(target=follow, args=pair, daemon=True)
            for pair in zip(workers, parts, strict=True)
        ]
        for thread in followers:
            thread.start()
        for thread in followers:
            thread.join()
        for worker, log in zip(workers, errors, strict=True):
            if worker.wait() != 0:
                lines = log.read_text().strip().splitlines() or [f"exit status {worker.returncode}"]
                raise OSError(lines[-1])
            log.unlink()
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()


def main() -> None:
    """Render the job given as JSON on standard input; print a line for each finished lesion."""
    job = json.load(sys.stdin)
    plan = [PlannedLesion(**{**lesion, "entropy": tuple(lesion["entropy"])}) for lesion in job["plan"]]
    for _ in _render(plan, Path(job["folder"]), job["size"], job["masks"]):
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
