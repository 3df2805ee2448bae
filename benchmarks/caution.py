"""How often a model abstains, and what that is worth: a finished RUN on real sites and on foreign pictures.

Test images of training sites, all of held-out sites, and pictures that no site has: noise, blots, pages of
text, cuttings of a screenshot, dermoscopic images with inverted or exchanged colours. One image a lesion, so
that intervals are Wilson's, and Newcombe's of an AUC.

    python -m benchmarks.caution RUN --data-root ../shared/data
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score

from benchmarks.claims import told
from fedderm.cli.console import Console
from fedderm.evaluation.proportions import auc_interval, wilson
from fedderm.local_site import LocalSite
from fedderm.node import open_site
from fedderm.predictor import Prediction, Predictor
from fedderm.preparation import audit_prepared, load_sites, open_caches
from fedderm.runs import RunFolder

Images = npt.NDArray[np.uint8]
SCREENSHOT = Path(__file__).resolve().parents[1] / "docs" / "images" / "report.png"
FOREIGN = 100
_SALT = "caution"


@dataclass(frozen=True)
class Seen:
    """What the model says of one group of pictures."""

    predictions: list[Prediction]
    malignant: npt.NDArray[np.bool_]
    """Of lesions; empty for pictures that are none."""


def local_sites(run: RunFolder) -> list[LocalSite]:
    """Return the run's sites without what they gave up to another."""
    console = Console()
    loaded = load_sites(run.experiment, console)
    given_up = audit_prepared(loaded, open_caches(run.experiment, loaded, console)).given_up(_SALT)
    return [
        open_site(run.experiment, site, _SALT, frozenset(given_up.get(site.name, ())))
        for site in run.experiment.sites
    ]


def test_rows(site: LocalSite) -> npt.NDArray[np.int64]:
    """Return the first image of each lesion that the model did not train on and whose level it is not."""
    splits = ("test",) if site.settings.role == "train" else ("calibration", "test")
    rows = np.concatenate([site.rows(split) for split in splits])
    lesions = site.table["lesion_id"].to_numpy(dtype=str)[rows]
    return rows[np.sort(np.unique(lesions, return_index=True)[1])]


def foreign(side: int, dermoscopic: Images) -> Mapping[str, Images]:
    """Return pictures (n, side, side, 3) that no training site has, by what they show."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (FOREIGN, side, side, 3), dtype=np.uint8)
    blots = [_scaled(Image.fromarray(one[:6, :6]), side) for one in noise]
    with Image.open(SCREENSHOT) as opened:
        screen = opened.convert("RGB")
    return {
        "noise": noise,
        "blots of colour": np.stack(blots),
        "a page of text": np.stack([_scaled(_page(rng), side) for _ in range(FOREIGN)]),
        "cuttings of a screenshot": np.stack([_scaled(_cutting(screen, rng), side) for _ in range(FOREIGN)]),
        "test images, colours inverted": 255 - dermoscopic,
        "test images, red and blue exchanged": np.ascontiguousarray(dermoscopic[..., ::-1]),
        "test images, grey": dermoscopic.mean(axis=3, keepdims=True).repeat(3, axis=3).astype(np.uint8),
    }


def _scaled(picture: Image.Image, side: int) -> Images:
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))


def _page(rng: np.random.Generator) -> Image.Image:
    page = Image.new("RGB", (448, 448), (245, 240, 230))
    draw = ImageDraw.Draw(page)
    for line in range(10, 440, 18):
        draw.text((10, line), "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz   "), 70)), (30, 30, 30))
    return page


def _cutting(screen: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = int(rng.integers(200, min(screen.size)))
    left, top = (int(rng.integers(0, most - side + 1)) for most in screen.size)
    return screen.crop((left, top, left + side, top + side))


def predictions(predictor: Predictor, pictures: Images) -> list[Prediction]:
    """Return what the model says of prepared pictures (n, S, S, 3)."""
    return [predictor.predict_square(Path("-"), one) for one in pictures]


def rate(hits: npt.ArrayLike) -> str:
    """Return a share with its interval."""
    found = np.asarray(hits, dtype=bool)
    if not len(found):
        return "-"
    low, high = wilson(int(found.sum()), len(found))
    return f"{found.mean():.3f} [{low:.3f}, {high:.3f}]"


def show_warnings(groups: Mapping[str, Seen]) -> None:
    """Print how often the model abstains, and why."""
    print("| pictures | n | out of distribution | views disagree | abstains |\n|---|---|---|---|---|")
    for name, seen in groups.items():
        told_of = seen.predictions
        foreign_to = rate([bool(one.out_of_distribution) for one in told_of])
        disagree = rate([(one.agreement or 1) < 1 for one in told_of])
        abstains = rate([one.abstains for one in told_of])
        print(f"| {name} | {len(told_of)} | {foreign_to} | {disagree} | {abstains} |")


def show_worth(groups: Mapping[str, Seen]) -> None:
    """Print what decisions are worth: of all lesions, and with those apart about which the model abstains."""
    print("\n| lesions | | n | malignant | sensitivity | specificity | accuracy | AUC |")
    print("|---|---|---|---|---|---|---|---|")
    for name, seen in groups.items():
        if not len(seen.malignant):
            continue
        decided = np.array([not one.abstains for one in seen.predictions])
        for what, kept in (("all", np.ones_like(decided)), ("decided", decided), ("abstained", ~decided)):
            truth = seen.malignant[kept]
            called = np.array([one.decision == "malignant" for one in seen.predictions])[kept]
            p = np.array([one.probability for one in seen.predictions])[kept]
            cells = [rate(called[truth]), rate(~called[~truth]), rate(called == truth), _auc(p, truth)]
            print(f"| {name} | {what} | {len(truth)} | {int(truth.sum())} | {' | '.join(cells)} |")


def _auc(probability: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]) -> str:
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if min(positives, negatives) < 1:
        return "-"
    found = float(roc_auc_score(truth, probability))
    low, high = auc_interval(found, positives, negatives)
    return f"{found:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Print both tables."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("run", type=Path)
    arguments.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    asked = arguments.parse_args()
    run, predictor = RunFolder.open(asked.run, asked.data_root), Predictor.open(asked.run)
    groups, some = {}, []
    for site in local_sites(run):
        rows = test_rows(site)
        classes = site.table["class_index"].to_numpy(dtype=np.int64)[rows]
        name = f"{site.settings.name} ({site.settings.role})"
        groups[name] = Seen(predictions(predictor, site.pixels[rows]), classes > 0)
        if site.settings.role == "train":
            some.append(site.pixels[rows[: FOREIGN // 4]])
    trained = [seen for name, seen in groups.items() if name.endswith("(train)")]
    groups["training sites together"] = Seen(
        [one for seen in trained for one in seen.predictions], np.concatenate([s.malignant for s in trained])
    )
    for name, pictures in foreign(predictor.settings.image_size, np.concatenate(some)).items():
        groups[name] = Seen(predictions(predictor, pictures), np.empty(0, bool))
    show_warnings(groups)
    show_worth(groups)


if __name__ == "__main__":
    told(main)
