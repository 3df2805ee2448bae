"""An epoch's data of real images at 224 px: fedderm's pixel cache against a plain PIL ``Dataset``.

The plain one is what tutorials write: open, decode, convert, resize and ``to_tensor`` each image in each
epoch, in batches by a ``DataLoader`` in the same process. fedderm decodes each image once, into a memory map,
and gathers batches from it. Both yield float batches (32, 3, 224, 224), with one thread, and neither
augments: augmentation runs on the training device (``augmented`` is printed, beside torchvision's own on PIL
images). The images are UDA-1's, 224 x 224, and the same enlarged to 600 x 450 JPEG, the size in which
HAM10000 is published: decoding grows with it, the cache does not.

Then a training of EfficientNet-Lite0, whose steps are short, on one thread: the share of a step that waits
for its batch.

    python -m benchmarks.loader [--data-root ../shared/data]
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.claims import Claim, parser, report, told
from benchmarks.gpu_steps import Case, Ours, waits
from fedderm.batches import training_batches
from fedderm.training_settings import AugmentationSettings, TrainingSettings
from fedderm.trainset import Images, TrainSet, site_train_set
from sites.cache import PixelSettings, open_cache
from sites.catalogue import load_site
from sites.folder import FolderSite

SIDE: Final = 224
BATCH: Final = 32
NET: Final = "tf_efficientnet_lite0"
_PLAIN = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
_AUGMENTED = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIDE, scale=(0.6, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.RandomRotation(180),
        transforms.ColorJitter(0.2, 0.2, 0.2),
        transforms.ToTensor(),
    ]
)


class PlainDataset(Dataset[Tensor]):
    """Image files, decoded whenever they are asked for."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self._paths = paths
        self._transform = transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        """Return one image (3, 224, 224)."""
        with Image.open(self._paths[index]) as image:
            return self._transform(image.convert("RGB"))


def plain(paths: list[Path], transform: Callable[[Image.Image], Tensor]) -> Iterable[Tensor]:
    """Return an epoch's batches of the plain way."""
    return DataLoader(PlainDataset(paths, transform), BATCH, shuffle=True)


def ours(data: TrainSet, strength: float) -> Iterator[Tensor]:
    """Yield an epoch's batches of fedderm's way; ``strength`` of augmentation, 0 is none."""
    settings = AugmentationSettings(geometry=strength, colour=strength)
    order = np.random.default_rng(1).permutation(len(data))
    chosen = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    device = torch.device("cpu")
    with training_batches(data, chosen, settings, torch.Generator().manual_seed(1), device) as batches:
        for batch in batches:
            yield batch.inputs(slice(None), device)


def seconds(epoch: Iterable[Tensor]) -> float:
    """Return the seconds of going through an epoch once."""
    start = time.perf_counter()
    for batch in epoch:
        batch.sum()  # it is really there
    return time.perf_counter() - start


def enlarged(paths: list[Path], folder: Path) -> list[Path]:
    """Write the images in the size of HAM10000's originals; return where."""
    folder.mkdir()
    found = []
    for path in paths:
        found.append(folder / path.name)
        with Image.open(path) as image:
            image.convert("RGB").resize((600, 450)).save(found[-1], quality=92)
    return found


def cached(folder: Path, table: Path, work_dir: Path) -> tuple[Images, float]:
    """Return the cached pixels of a hospital's folder and the seconds of decoding it once."""
    site = FolderSite(
        name="clinic",
        source="folder",
        path=Path(folder.name),
        table=table.name,
        columns={"image_id": "image"},
    )
    data = load_site(site, folder.parent, work_dir, 1)
    start = time.perf_counter()
    pixels = open_cache(data, PixelSettings(image_size=SIDE), work_dir, workers=1).pixels
    return pixels, time.perf_counter() - start


def epochs(name: str, paths: list[Path], pixels: Images, repeats: int) -> float:
    """Print and return how many times as fast fedderm's epoch is, medians over repeats that take turns."""
    rows = np.arange(len(pixels))
    data = site_train_set(pixels, rows, rows % 2, TrainingSettings())
    ways: dict[str, Callable[[], Iterable[Tensor]]] = {
        "PIL": lambda: plain(paths, _PLAIN),
        "fedderm": lambda: ours(data, 0.0),
        "PIL, augmented": lambda: plain(paths, _AUGMENTED),
        "fedderm, augmented": lambda: ours(data, 1.0),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats + 1):
        for way, epoch in ways.items():
            times[way].append(seconds(epoch()))
    found = {way: 1000 * median(each[1:]) / len(pixels) for way, each in times.items()}
    told_of = "; ".join(f"{way} {one:.2f} ms an image" for way, one in found.items())
    print(f"  {name}, {len(pixels)} images, {repeats} epochs: {told_of}", flush=True)
    return found["PIL"] / found["fedderm"]


def idle(net: str, pixels: Images, steps: int) -> float:
    """Print and return the percentage of a training's steps that waits for batches."""
    trained = Ours(Case(net, SIDE, BATCH, "cpu"), pixels)
    trained.run(1)
    with waits() as waited:
        total = trained.run(steps)
    print(
        f"  {net}: {total / steps:.2f} s a step, {1000 * sum(waited) / steps:.1f} ms of it waiting",
        flush=True,
    )
    return 100 * sum(waited) / total


def main() -> None:
    """Print epochs, waits and the claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--images", type=int, help="of an epoch (default: all of them)")
    asked = arguments.parse_args()
    folder = asked.data_root / "uda1"
    paths = sorted((folder / "images").glob("*.jpg"))
    if not paths:
        raise ValueError(
            f"{folder}/images holds no JPEG files; give --data-root a folder with UDA-1's images"
        )
    torch.set_num_threads(1)
    repeats, steps, most = (1, 2, 64) if asked.quick else (asked.repeats, 4, asked.images)
    paths = paths[:most]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        pixels, once = cached(folder, folder / "metadata.csv", Path(name))
        print(f"an epoch's data at {SIDE} px; decoded once in {once:.1f} s:", flush=True)
        small = epochs("224 x 224 JPEG", paths, pixels[: len(paths)], repeats)
        large = epochs("600 x 450 JPEG", enlarged(paths, Path(name) / "large"), pixels[: len(paths)], repeats)
        print(f"waiting for batches of {BATCH}, one thread:", flush=True)
        waiting = idle(NET, pixels, steps)
    more: dict[str, Any] = {"unit": "times", "at_least": True, "target": 10.0}
    claims = [
        Claim(what="an epoch's data, images of 224 x 224: times a plain PIL Dataset", ours=small, **more),
        Claim(what="an epoch's data, images of 600 x 450: times a plain PIL Dataset", ours=large, **more),
        Claim(what=f"waiting for data, {NET}", unit="% of a step", ours=waiting, target=3.0),
    ]
    report(claims, asked)


if __name__ == "__main__":
    told(main)
