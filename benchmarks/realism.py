"""How real are simulated centres? Triage AUC across the border between rendered and real images.

Features of a frozen EfficientNet-Lite0 (ImageNet weights) and a logistic regression, trained on one world
and tested on the other: simulated centres with six devices, and HAM10000's four sources. The generator was
tuned on the *development* half of HAM10000's lesions (by hash of the lesion id); figures to quote come from
the *final* half.

    python -m benchmarks.realism --data-root ../shared/data
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from fedderm.model.backbones import Backbone, build_backbone
from fedderm.model.names import PACKAGED
from sites import acquisition
from sites.acquisition import AcquisitionProfile
from sites.catalogue import load_site
from sites.ham10000 import HAM10000Site
from sites.images import read_image, to_square
from sites.simulated import SimulatedSite
from sites.site import Slice

IMAGE_SIZE = 112
HALVES = {"development": 0, "final": 1}
DEVICES = 6
HELD_OUT_DEVICE = 100


@dataclass(frozen=True)
class World:
    """Features ``(N, F)`` of one world's images, whether they are malignant, and their lesions."""

    features: NDArray[np.float32]
    malignant: NDArray[np.bool_]
    lesions: NDArray[np.str_]
    diagnoses: NDArray[np.str_]


def simulated(network: Backbone, work_dir: Path, seed: int, devices: Sequence[int], lesions: int) -> World:
    """Return ``lesions`` rendered lesions spread over centres, each seen through a device of its own."""
    parts = []
    for device in devices:
        site = SimulatedSite(
            name=f"device{device}",
            source="simulated",
            lesions=lesions // len(devices),
            images_per_lesion=1.0,
            acquisition=AcquisitionProfile.draw(device),
        )
        parts.append(_world(network, load_site(site, None, work_dir, seed).table, site.acquisition, seed))
    return World(*(np.concatenate([getattr(p, name) for p in parts]) for name in World.__annotations__))


def real(network: Backbone, data_root: Path, work_dir: Path, half: str, images: int, seed: int) -> World:
    """Return up to ``images`` images of one half of HAM10000's lesions, AK excluded."""
    site = HAM10000Site(
        name="ham10000", source="ham10000", akiec="exclude", slice=Slice(index=HALVES[half], of=len(HALVES))
    )
    table = load_site(site, data_root, work_dir, seed).table
    return _world(network, table.sample(min(images, len(table)), random_state=seed), None, seed)


def _world(network: Backbone, table: pd.DataFrame, profile: AcquisitionProfile | None, seed: int) -> World:
    malignant = table["class_index"].to_numpy() > 0
    squares = np.empty((len(table), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for i, (path, label) in enumerate(zip(table["path"], malignant, strict=True)):
        image = read_image(Path(path))
        if profile is not None:
            image = acquisition.apply(image, profile, np.random.default_rng([seed, i]), bool(label))
        squares[i] = to_square(image, IMAGE_SIZE, "center")
    return World(
        _features(network, squares),
        malignant,
        table["lesion_id"].to_numpy(dtype=str),
        table["diagnosis"].to_numpy(dtype=str),
    )


def _features(network: Backbone, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.mean, network.std))
    parts = []
    with torch.inference_mode():
        for start in range(0, len(squares), 64):
            batch = torch.from_numpy(squares[start : start + 64])
            images = (batch.permute(0, 3, 1, 2).float() / 255 - mean) / std
            parts.append(network.network(images).numpy())
    return np.concatenate(parts)


def fit(world: World) -> Pipeline:
    """Return a strongly regularised logistic regression on standardised features (a choice; never tuned on
    a test)."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.001, class_weight="balanced", max_iter=2000)
    )
    return model.fit(world.features, world.malignant)


def auc(model: Pipeline, world: World, resamples: int, seed: int) -> dict[str, float]:
    """Return the triage AUC over images with its 95 % interval by bootstrap of lesions, stratified by
    class."""
    scores = model.decision_function(world.features)
    rng = np.random.default_rng(seed)
    groups = {
        lesion: rows.to_numpy() for lesion, rows in pd.Series(range(len(scores))).groupby(world.lesions)
    }
    strata = [[g for g in groups.values() if bool(world.malignant[g[0]]) is side] for side in (False, True)]
    values = []
    for _ in range(resamples):
        rows = np.concatenate([s[i] for s in strata for i in rng.integers(0, len(s), len(s))])
        values.append(roc_auc_score(world.malignant[rows], scores[rows]))
    lower, upper = np.quantile(values, (0.025, 0.975))
    point = float(roc_auc_score(world.malignant, scores))
    return {
        "auc": point,
        "lower": float(lower),
        "upper": float(upper),
        "images": len(scores),
        "lesions": len(groups),
        "malignant": int(world.malignant.sum()),
    }


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the AUC of every pair of a training and a test world."""
    network = build_backbone(PACKAGED, IMAGE_SIZE, "package")
    network.network.eval()
    seed, work_dir = arguments.seed, arguments.work_dir
    worlds = {
        "simulated": simulated(network, work_dir, seed, range(DEVICES), arguments.images),
        "simulated, a new device": simulated(
            network, work_dir, seed, [HELD_OUT_DEVICE], arguments.images // 3
        ),
        **{
            f"HAM10000, {half} half": real(
                network, arguments.data_root, work_dir, half, arguments.images, seed
            )
            for half in HALVES
        },
    }
    test = f"HAM10000, {arguments.half} half"
    other = next(f"HAM10000, {half} half" for half in HALVES if half != arguments.half)
    pairs = [
        ("simulated", "simulated, a new device"),
        ("simulated", test),
        (other, "simulated"),
        (other, test),
    ]
    models = {name: fit(worlds[name]) for name in {trained for trained, _ in pairs}}
    return {
        f"{trained} -> {tested}": auc(models[trained], worlds[tested], arguments.resamples, seed)
        for trained, tested in pairs
    }


def main() -> None:
    """Print one line for each pair of worlds, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds ham10000/")
    parser.add_argument("--work-dir", type=Path, default=Path.home() / ".cache" / "fedderm")
    parser.add_argument("--half", choices=tuple(HALVES), default="final", help="real lesions to test on")
    parser.add_argument("--images", type=int, default=2100, help="images of each training world")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = measure(arguments)
    for pair, result in results.items():
        interval = f"{result['auc']:.3f} [{result['lower']:.3f}, {result['upper']:.3f}]"
        print(f"{pair:62s} AUC {interval}  n = {result['images']} images, {result['malignant']} malignant")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
