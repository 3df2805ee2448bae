"""What ``fedderm patterns agreement RUN`` does: where pattern heads look, against known masks."""

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.progress import track

from fedderm.cli.terminal import errors, output, plain_table
from fedderm.pattern_maps import Mask, PatternMaps, agreement, central
from fedderm.predictor import Predictor
from fedderm.runs import RunFolder
from fedderm.saliency import Heat
from sites.catalogue import Site, load_site
from sites.diagnoses import BCC_PATTERNS
from sites.images import to_square
from sites.simulated import SimulatedSite
from sites.simulated_annotators import pattern_mask

_DRAWS: Final = 2000
_SCORES: Final = ("inside", "outside", "share", "share_random", "share_other")


def show_agreement(run: Path, data_root: Path | None, most: int, seed: int) -> None:
    """Print how Grad-CAM of each pattern agrees with its mask, in test images of simulated sites with masks.

    Of sites without masks it prints what can be said: how much of the maps lies in the image's middle, and
    how far the maps of different patterns are the same map. It writes ``evaluation/pattern_maps.csv``.
    ``most`` is the number of test images a site and pattern. Intervals: bootstrap of lesions. Raises
    ValueError where the model has no pattern heads.
    """
    folder = RunFolder.open(run, data_root)
    experiment = folder.experiment
    predictor = Predictor.open(run)
    maps = PatternMaps(predictor.single("the agreement of patterns"))
    masked, unmasked = [], []
    for site in experiment.sites:
        table = load_site(site, experiment.data_root, experiment.work_dir, experiment.seed).table
        table = table[table["split"] == "test"]
        if isinstance(site, SimulatedSite):
            if site.masks or site.annotators:
                masked += list(_with_masks(site, table, predictor, maps, most, seed))
        else:
            unmasked.append(_without(site, table, predictor, maps, most, seed))
    _show(pd.DataFrame(masked), pd.DataFrame(unmasked), seed)
    if masked:
        to = folder.path / "evaluation" / "pattern_maps.csv"
        pd.DataFrame(masked).to_csv(to, index=False, float_format="%.6g")
        output().print(f"each image and pattern: {to}")


def _with_masks(
    site: Site, table: pd.DataFrame, predictor: Predictor, maps: PatternMaps, most: int, seed: int
) -> Iterator[dict[str, object]]:
    folder = Path(table["path"].iloc[0]).parents[1] / "masks"
    rng = np.random.default_rng(seed)
    for place, pattern in enumerate(BCC_PATTERNS):
        names = [str(name) for name in table["image_id"]]
        found = {name: _square(folder, name, pattern, predictor) for name in names}
        masks = {name: mask for name, mask in found.items() if mask is not None and mask.any()}
        rows = table[table["image_id"].isin(masks)].head(most)
        others = list(masks.items())
        for row in _watched(rows, f"{site.name}: {pattern}"):
            heat = maps.heat(predictor.square(predictor.pixels(Path(row["path"]))), place)
            strangers = [mask for name, mask in others if name != row["image_id"]]
            told = agreement(heat, masks[row["image_id"]], strangers, rng)
            yield {
                "site": site.name,
                "pattern": pattern,
                "image_id": row["image_id"],
                "lesion_id": row["lesion_id"],
                **{name: float("nan") if told is None else getattr(told, name) for name in _SCORES},
            }


def _square(folder: Path, image_id: str, pattern: str, predictor: Predictor) -> Mask | None:
    """Return a pattern's mask as the network's image is cut."""
    mask = pattern_mask(folder, image_id, pattern)
    if mask is None:
        return None
    grey = np.repeat(mask[:, :, None].astype(np.uint8) * 255, 3, axis=2)
    settings = predictor.settings
    return np.asarray(to_square(grey, settings.image_size, settings.crop)[:, :, 0] > 127)


def _without(
    site: Site, table: pd.DataFrame, predictor: Predictor, maps: PatternMaps, most: int, seed: int
) -> dict[str, object]:
    rows = table.sample(min(most, len(table)), random_state=seed)
    middle, alike, n = [], [], 0
    for row in _watched(rows, site.name):
        image = predictor.square(predictor.pixels(Path(row["path"])))
        heats = [maps.heat(image, place) for place in range(len(BCC_PATTERNS))]
        seen: list[Heat] = [heat for heat in heats if heat.sum() > 0]
        disc = central(image.shape[0])
        middle += [float(heat[disc].sum() / heat.sum()) for heat in seen]
        alike += list(_correlations(seen))
        n += 1
    return {"site": site.name, "images": n, "middle": np.mean(middle), "alike": np.mean(alike or [np.nan])}


def _correlations(heats: list[Heat]) -> Iterator[float]:
    flat = [heat.ravel() for heat in heats if heat.std() > 0]
    for first in range(len(flat)):
        for second in range(first):
            yield float(np.corrcoef(flat[first], flat[second])[0, 1])


def _watched(rows: pd.DataFrame, what: str) -> Iterator[dict[Hashable, str]]:
    bar = errors()
    yield from track(rows.to_dict("records"), what, console=bar, transient=True, disable=not bar.is_terminal)


def _show(masked: pd.DataFrame, unmasked: pd.DataFrame, seed: int) -> None:
    console = output()
    if len(masked):
        shown = plain_table(
            "pattern",
            "images",
            "empty maps",
            "inside",
            "outside",
            "share inside",
            "moved mask",
            "other masks",
        )
        for name, part in [*masked.groupby("pattern", sort=False), ("all", masked)]:
            known = part.dropna(subset=["share"])
            values = [_mean(known, score, seed) for score in _SCORES]
            shown.add_row(str(name).replace("_", " "), str(len(known)), str(len(part) - len(known)), *values)
        console.print(shown)
        console.print(
            "Grad-CAM, scaled to 0..1, inside and outside of the pattern's mask; the share of its mass "
            "inside the mask, inside that mask at random places, and inside as many pixels of other images' "
            "masks."
        )
    if len(unmasked):
        other = plain_table("site without masks", "images", "in the middle fifth", "maps alike")
        for row in unmasked.itertuples():
            other.add_row(str(row.site), str(row.images), f"{row.middle:.2f}", f"{row.alike:.2f}")
        console.print(other)
        console.print(
            "Without masks nobody can say whether a map lies on its pattern: shown are the share of the "
            "maps' mass in a central disc of a fifth of the image (0.20: no preference), and the mean "
            "correlation of the maps of different patterns in one image (1: they are one map)."
        )
    if not len(masked) and not len(unmasked):
        raise ValueError(
            "no site of this run has real images or masks, which simulated ones have with annotators or "
            "masks: true: there is nothing to look at"
        )


def _mean(part: pd.DataFrame, score: str, seed: int) -> str:
    """Return the mean and its interval: lesions are resampled with all their rows."""
    if part.empty or part[score].isna().all():
        return "-"
    grouped = part.dropna(subset=[score]).groupby("lesion_id")[score]
    sums: npt.NDArray[np.float64] = grouped.sum().to_numpy(dtype=float)
    counts = np.asarray(grouped.count(), dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=_DRAWS)
    low, high = np.quantile((drawn @ sums) / (drawn @ counts), [0.025, 0.975])
    return f"{sums.sum() / counts.sum():.2f} [{low:.2f}, {high:.2f}]"
