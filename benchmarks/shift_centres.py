"""Centres whose shift is known: lesions of one bank, drawn by case mix and seen through devices.

The bank holds rendered lesions, or HAM10000's lesions that the model was not trained on. A device is drawn as
``AcquisitionProfile.draw`` draws one; *strength* s moves its colour, optics and noise s times as far from the
middle of the plausible range: s = 1 is a device like the training sites', s = 2 lies outside what they span.
"""

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fedderm import config
from fedderm.inference import score_images
from fedderm.predictor import Predictor
from sites.acquisition import AcquisitionProfile, apply
from sites.case_mix import CaseMix
from sites.catalogue import load_site
from sites.images import Pixels, read_image, to_square
from sites.simulated import SimulatedSite

Truth = Literal["neither", "prevalence", "acquisition", "both"]

PREVALENCES = (0.35, 0.25, 0.15, 0.50, 0.30, 0.40, 0.20, 0.45)
"""Of the eight training sites."""
MIDDLE = float(np.mean(PREVALENCES))
LOG_ODDS = (0.75, 1.5, 2.25)
"""Prevalence shifts, up or down: from 0.33 to 0.18 or 0.50, 0.10 or 0.68, 0.05 or 0.82."""
STRENGTHS = (2.0, 3.0, 4.0)
RENDER_SIZE = 128
BANK = 3000


@dataclass(frozen=True)
class Plan:
    """A centre to be made."""

    truth: Truth
    strength: float
    """Of the prevalence shift (log odds) or, where the device changed, of the device."""
    prevalence: float
    profile: AcquisitionProfile
    lesions: NDArray[np.int64]
    """Rows of the bank."""


@dataclass(frozen=True)
class Centre:
    """What the model says of a centre's images, one a lesion."""

    truth: Truth
    strength: float
    classes: NDArray[np.int64]
    triage: NDArray[np.float64]
    differential: NDArray[np.int64]
    features: NDArray[np.float32]
    lesions: NDArray[np.str_]


def device(seed: int, strength: float) -> AcquisitionProfile:
    """Return a drawn device with its departures from the plausible middle multiplied by ``strength``."""
    drawn = AcquisitionProfile.draw(seed)
    red, green, blue = drawn.channel_gains
    return drawn.model_copy(
        update={
            "channel_gains": (red**strength, green**strength, blue**strength),
            "gamma": drawn.gamma**strength,
            "saturation": max(0.0, 1 + (drawn.saturation - 1) * strength),
            "vignette": min(1.0, drawn.vignette * strength),
            "zoom": float(np.clip(drawn.zoom**strength, 0.25, 4)),
            "blur": drawn.blur * strength,
            "noise": drawn.noise * strength,
        }
    )


def simulated_bank(work_dir: Path, seed: int) -> pd.DataFrame:
    """Return the table of BANK rendered lesions, one image each, 40 % malignant."""
    site = SimulatedSite(
        name="shift_bank",
        source="simulated",
        lesions=BANK,
        images_per_lesion=1.0,
        render_size=RENDER_SIZE,
        case_mix=CaseMix(prevalence=0.4),
    )
    return load_site(site, None, work_dir, seed).table


def real_bank(run: Path, data_root: Path, sites: Sequence[str]) -> pd.DataFrame:
    """Return one image of each lesion of a run's ``sites`` that no training site trained on."""
    experiment = config.load(run / "config.yaml", data_root=data_root)
    tables = {
        one.name: load_site(one, data_root, experiment.work_dir, experiment.seed).table
        for one in experiment.sites
    }
    trained = {
        lesion for table in tables.values() for lesion in table.loc[table["split"] == "train", "lesion_id"]
    }
    table = pd.concat([tables[name] for name in sites])
    return table[~table["lesion_id"].isin(trained)].drop_duplicates("lesion_id").reset_index(drop=True)


def training_plans(bank: pd.DataFrame, lesions: int, rng: np.random.Generator) -> list[Plan]:
    """Return eight training sites with devices of strength 1; no two share a lesion."""
    left = np.ones(len(bank), bool)
    plans = []
    for index, prevalence in enumerate(PREVALENCES):
        rows = _draw(bank, np.flatnonzero(left), lesions, round(prevalence * lesions), rng)
        left[rows] = False
        plans.append(Plan("neither", 1.0, prevalence, device(index, 1.0), rows))
    return plans


def centre_plans(
    bank: pd.DataFrame, rows: NDArray[np.int64], each: int, lesions: int, rng: np.random.Generator
) -> list[Plan]:
    """Return ``each`` centres of each truth from the bank's ``rows``, every one with a device of its own."""
    plans = []
    for index in range(4 * each):
        truth: Truth = ("neither", "prevalence", "acquisition", "both")[index % 4]
        grade, sign = (index // 4) % 3, 1 if (index // 12) % 2 else -1
        shift = LOG_ODDS[1 if truth == "both" else grade] * sign if truth in ("prevalence", "both") else 0.0
        strength = STRENGTHS[grade] if truth in ("acquisition", "both") else 1.0
        prevalence = float(1 / (1 + np.exp(-(np.log(MIDDLE / (1 - MIDDLE)) + shift))))
        chosen = _draw(bank, rows, lesions, int(rng.binomial(lesions, prevalence)), rng)
        graded = strength if truth in ("acquisition", "both") else abs(shift)
        plans.append(Plan(truth, graded, prevalence, device(1000 + index, strength), chosen))
    return plans


def _draw(
    bank: pd.DataFrame, rows: NDArray[np.int64], lesions: int, malignant: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    positive = bank["class_index"].to_numpy(dtype=np.int64)[rows] > 0
    chosen = [
        rng.choice(rows[side], count, replace=False)
        for side, count in ((positive, malignant), (~positive, lesions - malignant))
    ]
    return np.concatenate(chosen).astype(np.int64)


def score(plans: Sequence[Plan], bank: pd.DataFrame, run: Path, seed: int, processes: int) -> list[Centre]:
    """Return the centres of the plans, scored by the run's model."""
    with multiprocessing.get_context("spawn").Pool(processes, _open, (bank, run, seed)) as pool:
        return pool.starmap(_score, enumerate(plans), chunksize=1)


_opened: tuple[pd.DataFrame, Predictor, int]


def _open(bank: pd.DataFrame, run: Path, seed: int) -> None:
    global _opened
    torch.set_num_threads(1)
    _opened = (bank, Predictor.open(run), seed)


def _score(index: int, plan: Plan) -> Centre:
    bank, predictor, seed = _opened
    table, size = bank.iloc[plan.lesions], predictor.settings.image_size
    classes = table["class_index"].to_numpy(dtype=np.int64)
    squares = np.empty((len(table), size, size, 3), np.uint8)
    for row, (path, label) in enumerate(zip(table["path"], classes > 0, strict=True)):
        rng = np.random.default_rng([seed, index, row])
        seen = apply(_reduced(read_image(Path(path))), plan.profile, rng, bool(label))
        squares[row] = to_square(seen, size, "center")
    found = score_images(predictor.model, squares, np.arange(len(table)))
    named = (
        np.ones(len(table), np.int64) if found.differential is None else found.differential.argmax(axis=1) + 1
    )
    lesions = table["lesion_id"].to_numpy(dtype=str)
    return Centre(plan.truth, plan.strength, classes, found.triage, named, found.features, lesions)


def _reduced(image: Pixels) -> Pixels:
    """Return the central square, as high as a rendered image: a device's cost grows with the pixels."""
    return to_square(image, RENDER_SIZE, "center") if image.shape[0] > RENDER_SIZE else image
