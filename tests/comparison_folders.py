"""A comparison's folder as `fedderm compare` leaves it: the contract's files, with scores that are drawn."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from fedderm.comparison.cell_row import COLUMNS as CELL_COLUMNS
from fedderm.evaluation.long_format import COLUMNS
from fedderm.evaluation.scores import Scores

# name: role, lesions, malignant, separation of the classes
SITES: dict[str, tuple[str, int, int, float]] = {
    "vienna": ("held-out", 160, 45, 1.3),
    "queensland": ("held-out", 200, 60, 1.0),
    "rosendahl": ("train", 220, 70, 2.0),
    "molemax": ("train", 180, 40, 1.8),
    "screening": ("train", 150, 6, 1.9),
}
ROUNDS = 4


@dataclass(frozen=True)
class Arm:
    """How good an arm's models are, beside the reference's."""

    gain: float = 0.0
    """Added to the separation at every site."""
    baseline: str = "none"
    personal: float | None = None
    """The gain of the site's own model; None: it has none."""
    own: float = 0.35
    """Standard deviation of what the arm makes of single lesions; 0: the reference's own scores."""
    seeds: float = 0.08
    """Standard deviation over seeds of the separation."""


@dataclass(frozen=True)
class Plan:
    """What is written."""

    arms: Mapping[str, Arm]
    seeds: Sequence[int] = (1, 2, 3, 4, 5)
    reference: str = "fedavg"
    folds: bool = False
    leave_out: Sequence[str] = ()
    """The rotation of the folds; empty: all sites."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Cell id to its error."""
    waiting: Sequence[str] = ()
    sites: Mapping[str, tuple[str, int, int, float]] = field(default_factory=lambda: SITES)


def write_comparison(folder: Path, plan: Plan) -> Path:
    """Return ``folder``, filled as a comparison with these arms would be."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(_config(plan), sort_keys=False), encoding="utf-8")
    (folder / "environment.json").write_text(
        json.dumps({"fedderm": "0.1.0", "started": "2026-11-25T22:00:00"})
    )
    rows = [_cell(folder, plan, *which) for which in _cells(plan)]
    pd.DataFrame(rows, columns=list(CELL_COLUMNS)).to_csv(folder / "cells.csv", index=False)
    return folder


def _config(plan: Plan) -> dict[str, Any]:
    return {
        "name": "aggregation",
        "seed": 2026,
        "evaluation": {"bootstrap": 1000},
        "sites": [{"name": name, "role": role} for name, (role, *_) in plan.sites.items()],
        "compare": {
            "reference": plan.reference,
            "seeds": list(plan.seeds),
            "protocol": "leave_one_site_out" if plan.folds else "fixed",
            "arms": {arm: {} for arm in plan.arms},
        },
    }


def _cells(plan: Plan) -> list[tuple[str, int, str, str]]:
    def training(fold: str) -> list[str]:
        if fold:
            return [name for name, role in _roles(plan, fold).items() if role == "train"]
        return [name for name, (role, *_) in plan.sites.items() if role == "train"]

    return [
        (arm, seed, fold, trained)
        for seed in plan.seeds
        for fold in ((plan.leave_out or plan.sites) if plan.folds else [""])
        for arm, made in plan.arms.items()
        for trained in (training(fold) if made.baseline == "local" else [""])
    ]


def _roles(plan: Plan, fold: str) -> dict[str, str]:
    roles = {site: role for site, (role, *_) in plan.sites.items()}
    if fold:
        roles |= dict.fromkeys(plan.leave_out or plan.sites, "train") | {fold: "held-out"}
    return roles


def _cell(folder: Path, plan: Plan, arm: str, seed: int, fold: str, trained: str) -> dict[str, Any]:
    name = "/".join(part for part in (arm, str(seed), fold, trained) if part)
    row = {"cell": name, "arm": arm, "seed": seed, "held_out": fold, "trained": trained, "error": ""}
    if name in plan.failed or name in plan.waiting:
        status = "failed" if name in plan.failed else "waiting"
        nothing = dict.fromkeys(("images", "bytes_down", "bytes_up"), 0)
        return row | nothing | {"status": status, "error": plan.failed.get(name, ""), "seconds": 3.0}
    path = folder / "cells" / name
    for part in ("rounds", "model"):
        (path / part).mkdir(parents=True)
    made = plan.arms[arm]
    roles = _roles(plan, fold)
    config = {"baseline": made.baseline, "sites": [{"name": n, "role": r} for n, r in roles.items()]}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    point = {
        "calibration": "identity", "slope": 1.0, "intercept": 0.0, "threshold": 0.2 + 0.02 * seed,
        "threshold_probability": 0.55, "origin": "drawn",
    }  # fmt: skip
    (path / "model" / "model.json").write_text(json.dumps({"federation_point": point}))
    _write_scores(path, plan, arm, seed, fold + trained, roles)
    _write_rounds(path, made, seed)
    exchanged = 0 if made.baseline != "none" else 1
    return row | {
        "status": "done", "seconds": 20.0 + seed, "images": 48_000,
        "bytes_down": exchanged * ROUNDS * 9_000_000, "bytes_up": exchanged * ROUNDS * 8_000_000,
    }  # fmt: skip


def _write_scores(path: Path, plan: Plan, arm: str, seed: int, within: str, roles: Mapping[str, str]) -> None:
    arrays: dict[str, Any] = {}
    made = plan.arms[arm]
    for site in plan.sites:
        gains = {"global": made.gain}
        if made.baseline == "local" and site == within:
            gains["global"] += 0.2
        if made.personal is not None and roles[site] == "train":
            gains["personal"] = made.personal
        for model, gain in gains.items():
            scores = drawn_scores(plan, site, arm if made.own else plan.reference, seed, gain, model + within)
            for name in ("lesion", "triage", "truth", "differential"):
                arrays[f"{site}/{model}/{name}"] = getattr(scores, name)
    np.savez_compressed(path / "scores.npz", **arrays)


def drawn_scores(plan: Plan, site: str, arm: str, seed: int, gain: float, kind: str) -> Scores:
    """Return scores of a site's lesions: what is easy for one model is for all, less what is its own."""
    _, lesions, malignant, separation = plan.sites[site]
    truth = np.repeat([1, 0], [malignant, lesions - malignant])
    shared = _rng(site).normal(0, 1, lesions)
    made = plan.arms[arm]
    own = _rng(site, arm, kind).normal(0, made.own, lesions)
    of_seed = _rng(site, arm, kind, str(seed)).normal(0, 0.2, lesions)
    moved = _rng(arm, kind, str(seed)).normal(0, made.seeds)
    logits = (separation + gain + moved) * (truth - 0.5) + shared + own + of_seed
    ids = np.array([f"{site}-{index:04d}" for index in range(lesions)])
    return Scores(logits, np.ones(lesions, np.int64), truth, ids)


def _rng(*names: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(name.encode()) for name in names])


def _write_rounds(path: Path, made: Arm, seed: int) -> None:
    rows, history = [], []
    noise = _rng(str(path.name), str(seed))
    for number in range(1, ROUNDS + 1):
        for role, best in (("train", 0.9), ("held-out", 0.8)):
            value = best - 0.2 / number + 0.02 * made.gain + noise.normal(0, 0.004)
            row = dict.fromkeys(COLUMNS, "") | {
                "site": "(pooled)", "role": role, "split": "test", "round": number, "unit": "lesion",
                "metric": "auc", "value": value, "n": 300, "positives": 90,
            }  # fmt: skip
            rows.append(row)
        history.append({"round": number, "bytes_down": 8_000_000, "bytes_up": 7_000_000, "sites": {}})
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(path / "rounds" / "metrics.csv", index=False)
    (path / "rounds" / "state.json").write_text(json.dumps({"round": ROUNDS, "history": history}))
