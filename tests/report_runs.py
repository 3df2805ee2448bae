"""A finished run's folder for the report's tests: scores are drawn, the evaluation is the real one."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image
from report_findings import drawn_attributes, findings
from threadpoolctl import threadpool_limits

from fedderm.counts_file import write_counts
from fedderm.evaluation.counts import Counts, counts_of
from fedderm.evaluation.disclosure import FLOOR, told, understood
from fedderm.evaluation.documents import FederationEvaluation, OperatingPoint, SiteEvaluation, SplitSize
from fedderm.evaluation.long_format import (
    COLUMNS,
    long_rows_of_counts,
    long_rows_of_federation,
    long_rows_of_site,
)
from fedderm.evaluation.recalibration import (
    EvaluationSettings,
    evaluate_federation,
    federation_point,
)
from fedderm.evaluation.replicates import site_replicates, sum_replicates
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.site_evaluation import evaluate_site

ROUNDS = 6
Splits = dict[str, dict[str, Scores]]
NOTE = 'AK excluded: 130 images <of 130> & no "other" diagnosis'
# name: role, lesions, prevalence, separation of the logits, shift of the logits
CENTRES: dict[str, tuple[str, int, float, float, float]] = {
    "vidir_modern": ("train", 900, 0.27, 2.3, 0.0),
    "rosendahl": ("train", 800, 0.36, 2.1, 0.1),
    "vidir_molemax": ("train", 1000, 0.008, 2.4, -0.2),
    "MSK4": ("train", 320, 0.3, 1.9, 0.2),
    "vienna_dias": ("held-out", 330, 0.18, 1.2, -0.6),
    "UDA1": ("held-out", 430, 0.35, 1.0, -0.9),
    "screening_only_nevi": ("held-out", 90, 0.0, 1.0, 0.0),
}
KEEPS_ITS_COUNTS = ("screening_only_nevi",)
SETTINGS: dict[str, Any] = {
    "target_sensitivity": 0.9,
    "confidence": 0.95,
    "bootstrap": 60,
    "seed": 2026,
    "scheme": "cascade",
}


def draw(
    name: str, lesions: int, generator: np.random.Generator, progress: float = 1.0, split: str = "test"
) -> Scores:
    """Return the scores of a split of a centre; ``progress`` in 0..1 scales the separation of the classes."""
    _, _, prevalence, separation, shift = CENTRES[name]
    malignant = generator.random(lesions) < prevalence
    truth = np.where(malignant, generator.choice([1, 2, 3], lesions, p=[0.5, 0.15, 0.35]), 0)
    images = generator.choice([1, 1, 2, 3], lesions)
    rows = np.repeat(np.arange(lesions), images)
    logit = progress * separation * (malignant - 0.5) + shift - 0.5 + generator.normal(0, 1, lesions)
    right = generator.random(len(rows)) < 0.7
    differential = np.where(right & (truth[rows] > 0), truth[rows], generator.choice([1, 2, 3], len(rows)))
    return Scores(
        logit[rows] + generator.normal(0, 0.4, len(rows)),
        differential.astype(np.int64),
        truth[rows].astype(np.int64),
        np.array([f"{name}-{split}-{row}" for row in rows]),
    )


def write_run(folder: Path, *, simulated: bool = False, min_cell: int = 0, told: bool = False) -> Path:
    """Return ``folder``, filled as a finished run leaves it (without weights).

    With ``told`` the federation tells its sites of its training sites, and lesions have ages and sexes.
    """
    splits, sites, federation = _federation(min_cell, told)
    generator = np.random.default_rng(7)
    for part in ("rounds", "evaluation", "gallery"):
        (folder / part).mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(_config(simulated, min_cell), sort_keys=False), encoding="utf-8"
    )
    (folder / "environment.json").write_text(json.dumps(_environment()))
    (folder / "audit.json").write_text(json.dumps(_audit(splits)))
    (folder / "rounds" / "state.json").write_text(json.dumps(_state(splits)))
    _rounds(generator, federation.operating_point).to_csv(folder / "rounds" / "metrics.csv", index=False)
    documents = {name: site.model_dump(mode="json") for name, site in sites.items()}
    (folder / "evaluation" / "sites.json").write_text(json.dumps(documents))
    (folder / "evaluation" / "federation.json").write_text(federation.model_dump_json())
    kept = {
        f"{name}/{split}": _shown(split, counts_of(held[split]), min_cell)
        for name, held in splits.items()
        for split in ("calibration", "test")
        if name not in KEEPS_ITS_COUNTS
    }
    write_counts(folder / "evaluation" / "counts.npz", kept)
    rows = [row for site in sites.values() for row in long_rows_of_site(site)]
    rows += long_rows_of_federation(federation)
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "evaluation" / "metrics.csv", index=False)
    if simulated:
        for name in CENTRES:
            _sheet(generator).save(folder / "gallery" / f"{name}.jpg", quality=85)
    return folder


@cache
def _federation(min_cell: int, told: bool) -> tuple[Splits, dict[str, SiteEvaluation], FederationEvaluation]:
    generator = np.random.default_rng(2026)
    share = {"train": (0.6, 0.2, 0.2), "held-out": (0.0, 0.5, 0.5)}
    splits = {
        name: {
            split: draw(name, round(lesions * part), generator, split=split)
            for split, part in zip(("train", "calibration", "test"), share[role], strict=True)
        }
        for name, (role, lesions, *_) in CENTRES.items()
    }
    # BLAS threads wait for each other in fits of two numbers: on a busy machine 18 s instead of 1.4.
    with threadpool_limits(1):
        return splits, *_evaluate(splits, min_cell, told)


def _evaluate(
    splits: Splits, min_cell: int, told: bool
) -> tuple[dict[str, SiteEvaluation], FederationEvaluation]:
    by_role = {role: [name for name in CENTRES if CENTRES[name][0] == role] for role in ("train", "held-out")}
    calibration = sum((counts_of(splits[name]["calibration"]) for name in by_role["train"]), Counts.zero())
    point, certificate = federation_point(calibration, 0.9, 0.95, 2026)
    settings = EvaluationSettings(**SETTINGS, min_cell=min_cell)
    calibrations = {name: held["calibration"] for name, held in splits.items()}
    nothing: dict[str, Any] = {name: {"evidence": None, "shift": None} for name in splits}
    found = findings(calibrations, by_role["train"], min_cell) if told else nothing
    sites = {
        name: evaluate_site(
            site=name,
            role=CENTRES[name][0],
            calibration=held["calibration"],
            test=held["test"],
            sizes={split: _split_size(scores) for split, scores in held.items()},
            diagnoses=_diagnoses(held),
            attributes=drawn_attributes(held["test"], index) if told else {},
            federation_point=point,
            settings=settings,
            **found[name],
        )
        for index, (name, held) in enumerate(splits.items())
    }
    counts = {
        role: sum((counts_of(splits[name]["test"]) for name in names), Counts.zero())
        for role, names in by_role.items()
    }
    replicates = {
        role: _replicates([splits[name]["test"] for name in names], point) for role, names in by_role.items()
    }
    return sites, evaluate_federation(counts, replicates, point, certificate, "cascade")


def _replicates(parts: list[Scores], point: OperatingPoint) -> Any:
    made = [
        site_replicates(part, resamples=60, seed=np.random.SeedSequence(index), threshold=point.threshold)
        for index, part in enumerate(parts)
    ]
    return {unit: sum_replicates([one[unit] for one in made]) for unit in made[0]}


def _split_size(scores: Scores) -> SplitSize:
    lesions = scores.per_lesion()
    return SplitSize(
        images=len(scores),
        lesions=len(lesions),
        positive_images=int(scores.positive.sum()),
        positive_lesions=int(lesions.positive.sum()),
    )


def _diagnoses(held: dict[str, Scores]) -> dict[str, int]:
    truth = Scores.join(*held.values()).truth
    benign = int((truth == 0).sum())
    found = {"nv": benign - benign // 4, "bkl": benign // 4 - benign // 12, "df": benign // 12}
    found |= {name: int((truth == index).sum()) for index, name in ((1, "mel"), (2, "scc"), (3, "bcc"))}
    return {name: number for name, number in found.items() if number}


def _rounds(generator: np.random.Generator, point: OperatingPoint) -> pd.DataFrame:
    rows: list[Any] = []
    for number in range(1, ROUNDS + 1):
        progress = 1 - 0.7 * 0.55**number
        for role in ("train", "held-out"):
            total = Counts.zero()
            for name in (name for name in CENTRES if CENTRES[name][0] == role):
                found = counts_of(draw(name, 300, generator, progress))
                total = total + found
                rows += long_rows_of_counts(
                    found, point, "cascade", site=name, role=role, split="test", round_=number
                )
            rows += long_rows_of_counts(total, point, "cascade", role=role, split="test", round_=number)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _state(splits: Splits) -> dict[str, Any]:
    history = []
    for number in range(1, ROUNDS + 1):
        sites = {
            name: {
                "num-examples": len(held["train"]),
                "steps": len(held["train"]) // 32,
                "loss": place / 9 + 2 / number,
            }
            for place, (name, held) in enumerate(splits.items())
            if CENTRES[name][0] == "train" and not (name == "MSK4" and number == 3)
        }
        refused = (
            {"MSK4": "its reply holds NaN in head.weight; see the site's own log"} if number == 3 else {}
        )
        history.append(
            {
                "round": number,
                "seconds": 41.2 + number,
                "bytes_down": 54_400_000,
                "bytes_up": 54_410_000,
                "evaluation_bytes_down": 95_200_000,
                "evaluation_bytes_up": 310_000,
                "sites": sites,
                "refused": refused,
            }
        )
    return {
        "round": ROUNDS,
        "rounds": ROUNDS,
        "finished": True,
        "history": history,
        "traffic": {"down": 812_000_000, "up": 402_000_000},
        "not_concluded": {"far_clinic": "site far_clinic: no answer within 3600 s"},
    }


def _environment() -> dict[str, Any]:
    return {
        "fedderm": "0.1.0",
        "git commit": "26ecf6f",
        "seed": 2026,
        "started": "2026-11-21T05:08:03+00:00",
        "seconds": 392.4,
        "python": "3.11.9",
        "torch": "2.13.0",
        "flwr": "1.41.0",
        "ray": "2.55.1",
        "timm": "1.0.20",
        "numpy": "2.3.1",
        "platform": "Linux-6.8-x86_64",
        "cpu": "an 8-core processor",
        "cores": 8,
        "memory": "32 GB",
        "gpu": None,
    }


def _audit(splits: Splits) -> dict[str, Any]:
    sites: dict[str, Any] = {
        name: {
            "images": sum(len(scores) for scores in held.values()),
            "lesions": sum(len(scores.per_lesion()) for scores in held.values()),
            "notes": [NOTE] if name == "vidir_modern" else [],
            "set_aside": [],
        }
        for name, held in splits.items()
    }
    sites["MSK4"]["set_aside"] = [{"image_id": "ISIC_0001_downsampled", "reason": "truncated: <0 of 3> rows"}]
    return {
        "checked": {
            name: {"images": told["images"], "lesions": told["lesions"], "pixels": told["images"]}
            for name, told in sites.items()
        },
        "conflicts": [
            {
                "kind": "lesion",
                "value": "HAM_0000123",
                "first": {"site": "rosendahl", "split": "test", "images": ["I1"], "lesions": ["HAM_0000123"]},
                "second": {
                    "site": "vidir_modern",
                    "split": "train",
                    "images": ["I2"],
                    "lesions": ["HAM_0000123"],
                },
            }
        ],
        "removed": {name: 14 if name == "rosendahl" else 0 for name in splits},
        "sites": sites,
    }


def _config(simulated: bool, min_cell: int) -> dict[str, Any]:
    device = {
        "channel_gains": [1.06, 0.97, 0.93],
        "gain_jitter": [0.05, 0.035, 0.055],
        "gamma": 1.12,
        "saturation": 0.9,
        "vignette": 0.2,
        "zoom": 1.0,
        "blur": 0.7,
        "noise": 0.0,
        "jpeg_quality": 80,
        "hair": 0.45,
        "hair_strands": [5, 40],
        "device_seed": None,
    }
    return {
        "name": "ham10000_fedprox",
        "seed": 2026,
        "rounds": ROUNDS,
        "strategy": {"name": "fedprox", "proximal_mu": 0.01, "weighting": "examples"},
        "model": {
            "scheme": "cascade",
            "trunk": "shared",
            "backbone": "tf_efficientnet_lite0",
            "image_size": 112,
        },
        "training": {"local_epochs": 1.0, "batch_size": 32, "learning_rate": 0.0003},
        "evaluation": {"target_sensitivity": 0.9, "confidence": 0.95, "bootstrap": 60},
        "sites": [
            {
                "name": name,
                "source": "simulated" if simulated else "ham10000",
                "role": role,
                "ak_policy": "exclude",
                "min_cell": min_cell,
                "acquisition": device if simulated else None,
            }
            for name, (role, *_) in CENTRES.items()
        ],
    }


def _sheet(generator: np.random.Generator) -> Image.Image:
    """Return a contact sheet of skin-coloured tiles with a brown disc each."""
    sheet = np.full((396, 804, 3), 255, np.uint8)
    y, x = np.mgrid[:96, :96]
    for row in range(3):
        for column in range(8):
            tile = np.tile(np.array([226, 182, 160]) + generator.integers(-12, 12, 3), (96, 96, 1))
            inside = (x - 48) ** 2 + (y - 48) ** 2 < generator.integers(18, 40) ** 2
            tile[inside] = np.array([120, 74, 54]) + generator.integers(-25, 25, 3)
            noisy = np.clip(tile + generator.normal(0, 4, tile.shape), 0, 255)
            top, left = 4 + row * 116, 4 + column * 100
            sheet[top : top + 96, left : left + 96] = noisy
    return Image.fromarray(sheet)


def _shown(split: str, counts: Counts, min_cell: int) -> Counts:
    """Return what a run's folder holds of a site's counts: of a calibration split what certifies."""
    known = understood(told(split, counts, min_cell))
    return known.get(split + FLOOR, known[split]) if split == "calibration" else known[split]
