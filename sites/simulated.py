"""A simulated clinical centre: patients with lesions, rendered instead of photographed.

Holds: procedurally generated dermoscopic images of all eight diagnoses, with age, sex, body site and skin
type; optionally the masks of each lesion and of each dermoscopic structure. Licence: the project's own. Get
it: nothing to get. How real it is has been measured in docs/simulated-centres.md.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import pandas as pd
from filelock import FileLock
from pydantic import Field, model_validator

from sites.case_mix import SKIN_TYPES, CaseMix, apportion, diagnosis_fractions
from sites.criteria import CRITERIA
from sites.errors import SiteError
from sites.rendering import PlannedLesion, image_name, render_all
from sites.simulated_annotators import annotate, painted_patterns
from sites.site import SiteSettings

DIAGNOSES: Final = {
    "nv": 0.45,
    "mel": 0.14,
    "bcc": 0.13,
    "scc": 0.06,
    "ak": 0.05,
    "bkl": 0.15,
    "df": 0.03,
    "vasc": 0.03,
}
"""Relative frequencies where the config names none: a referral clinic's, prevalence about one third (a
choice)."""
SKIN_TYPE_WEIGHTS: Final = {"I": 0.20, "II": 0.50, "III": 0.22, "IV": 0.06, "V": 0.015, "VI": 0.005}
"""A Central European clinic's, like HAM10000's (a choice)."""
MAX_VIEWS: Final = 6

_ON_SUN_EXPOSED: Final = {"head/neck": 0.45, "upper extremity": 0.18, "anterior torso": 0.12}
_ELSEWHERE: Final = {"head/neck": 0.12, "upper extremity": 0.15, "anterior torso": 0.23}
_SPREAD: Final = {"posterior torso": 0.6, "lower extremity": 0.4}
# Every file whose change changes a rendered byte.
_GENERATOR: Final = (
    "criteria.py",
    "framing.py",
    "lesions.py",
    "pigment.py",
    "rendering.py",
    "simulated.py",
    "simulated_annotators.py",
    "skin.py",
    "structures.py",
    "surface.py",
)

_PLANNED: Final = [planned.name for planned in fields(PlannedLesion)]

progress: Callable[[str, int, int], None] | None = None
"""Called with (site, lesions finished, lesions in all) while a centre is rendered, if someone wants to show
it."""


class SimulatedSite(SiteSettings):
    """A centre that exists only as settings. Its case mix drives generation; its acquisition profile is
    applied later, when pixels are cached, as it would be to real images."""

    source: Literal["simulated"]
    lesions: Annotated[int, Field(ge=1, le=100_000)] = 300
    images_per_lesion: Annotated[float, Field(ge=1, le=MAX_VIEWS)] = 1.3
    """Mean; every lesion has at least one, at most six."""
    render_size: Annotated[int, Field(ge=32, le=1024)] = 160
    """Height in pixels; images are a third wider."""
    masks: bool = False
    """Write the lesion's and each structure's mask as PNG beside the images."""
    annotators: Annotated[int, Field(ge=0, le=20)] = 0
    """Simulated annotators of the dermoscopic patterns of BCC (sites.simulated_annotators); with masks."""

    @model_validator(mode="after")
    def _can_be_rendered(self) -> "SimulatedSite":
        weights = (self.case_mix.diagnoses if self.case_mix else None) or {}
        unknown = sorted(d for d, w in weights.items() if w > 0 and d not in CRITERIA)
        if unknown:
            raise ValueError(
                f"case_mix.diagnoses: {', '.join(unknown)} cannot be rendered; "
                f"choose from {', '.join(CRITERIA)}"
            )
        return self

    def read(self, data_root: Path | None, work_dir: Path, seed: int) -> pd.DataFrame:  # noqa: ARG002
        """Return the centre's raw table, rendering it into ``work_dir/simulated`` the first time.

        The same settings and seed give the same bytes. Building happens in a temporary folder that is
        renamed into place under a lock, so a second builder waits and a killed one leaves nothing that
        counts. ``data_root`` is not used. Raises SiteError where the folder cannot be written.
        """
        folder = work_dir / "simulated" / self._key(seed)
        try:
            if not (folder / "metadata.csv").is_file():
                folder.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{folder}.lock"):
                    if not (folder / "metadata.csv").is_file():
                        self._build(folder, seed)
            table = pd.read_csv(folder / "metadata.csv", dtype={"skin_type": str})
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SiteError(
                f"the simulated centre cannot be rendered into {folder.parent} ({reason}); "
                "make sure the folder can be written and has free space"
            ) from error
        table["path"] = [str(folder / "images" / f"{name}.jpg") for name in table["image_id"]]
        if self.annotators:
            table.attrs["annotations"] = folder / "annotations.csv"
        return table

    def _key(self, seed: int) -> str:
        """Return a folder name that changes with every setting, and every line of code, that changes a
        byte."""
        mix = self.case_mix.model_dump() if self.case_mix else None
        what = [self.name, seed, self.lesions, self.images_per_lesion, self.render_size, self.masks, mix]
        what += [self.annotators]
        digest = hashlib.sha256(json.dumps([*what, self.ak_policy], sort_keys=True).encode())
        for name in _GENERATOR:
            digest.update(Path(__file__).with_name(name).read_bytes())
        return f"{self.name}-{digest.hexdigest()[:16]}"

    def _build(self, folder: Path, seed: int) -> None:
        for stale in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            patients = plan(self, seed)
            render_all(
                [PlannedLesion(*row) for row in patients[_PLANNED].itertuples(index=False)],
                building,
                size=self.render_size,
                masks=self.masks or self.annotators > 0,
                workers=_cores(),
                progress=lambda done: progress(self.name, done, self.lesions) if progress else None,
            )
            images = _images(patients)
            self._annotate(building, list(images["image_id"]), seed)
            images.to_csv(building / "metadata.csv", index=False)
            # A folder without its metadata is one that someone emptied by hand.
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _annotate(self, folder: Path, image_ids: list[str], seed: int) -> None:
        """Write patterns.csv (the truth), annotations.csv (what annotators say), annotators.csv (their
        rates)."""
        if not self.annotators:
            return
        truth = painted_patterns(folder / "masks", image_ids)
        name = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "big")
        rng = np.random.default_rng(np.random.SeedSequence([seed, name, 1]))
        says, rates = annotate(truth, self.annotators, rng)
        for table, file in ((truth, "patterns.csv"), (says, "annotations.csv"), (rates, "annotators.csv")):
            table.to_csv(folder / file, index=False)


def plan(site: SimulatedSite, seed: int) -> pd.DataFrame:
    """Return one row per lesion: its patient and what ``PlannedLesion`` needs.

    Diagnoses come in exact proportion (largest remainder), the rest is drawn. About one patient in five has a
    second lesion.
    """
    name = int.from_bytes(hashlib.sha256(site.name.encode()).digest()[:8], "big")
    rng = np.random.default_rng(np.random.SeedSequence([seed, name]))
    mix = site.case_mix or CaseMix()
    fractions = _fractions(site, mix)
    quotas = apportion(fractions, site.lesions)
    diagnoses = rng.permutation([d for d, n in sorted(quotas.items()) for _ in range(n)])
    new_patient = rng.random(site.lesions) < 0.8
    new_patient[0] = True
    first = np.maximum.accumulate(np.where(new_patient, np.arange(site.lesions), 0))
    patients = np.cumsum(new_patient)
    types = mix.skin_types or SKIN_TYPE_WEIGHTS
    weights = np.array([types.get(t, 0.0) for t in SKIN_TYPES])
    lesion_ids = [f"{site.name}_{i:05d}" for i in range(site.lesions)]
    return pd.DataFrame(
        {
            "lesion_id": lesion_ids,
            "entropy": [(seed, name, i) for i in range(site.lesions)],
            "patient_id": [f"{site.name}_P{p:05d}" for p in patients],
            "diagnosis": diagnoses,
            # All lesions of a patient share the attributes drawn with the first.
            "age": _ages(diagnoses, fractions, mix, rng)[first],
            "sex": _sexes(diagnoses, fractions, mix, rng)[first],
            "skin_type": rng.choice(SKIN_TYPES, site.lesions, p=weights / weights.sum())[first],
            "anatom_site": [_anatom_site(d, rng) for d in diagnoses],
            "views": np.clip(1 + rng.poisson(site.images_per_lesion - 1, site.lesions), 1, MAX_VIEWS),
        }
    )


def _images(lesions: pd.DataFrame) -> pd.DataFrame:
    """Return one row per image, without paths: the folder has not got its name yet."""
    images = lesions.loc[lesions.index.repeat(lesions["views"])].reset_index(drop=True)
    number = images.groupby("lesion_id").cumcount()
    images["image_id"] = [image_name(i, n) for i, n in zip(images["lesion_id"], number, strict=True)]
    images["acquisition"] = "simulated"
    columns = ["image_id", "lesion_id", "patient_id", "diagnosis", "age", "sex", "anatom_site", "skin_type"]
    return images[[*columns, "acquisition"]]


def _fractions(site: SimulatedSite, mix: CaseMix) -> dict[str, float]:
    weights = mix.diagnoses
    if weights is None:
        # Not rendered only to be excluded again.
        weights = {d: w for d, w in DIAGNOSES.items() if d != "ak" or site.ak_policy != "exclude"}
    return diagnosis_fractions(weights, mix.prevalence)


def _ages(
    diagnoses: np.ndarray, fractions: dict[str, float], mix: CaseMix, rng: np.random.Generator
) -> np.ndarray:
    """Return ages in steps of five years, as the archives give them: older for BCC than for nevi, whatever
    the mean."""
    usual = np.array([CRITERIA[d].age for d in diagnoses])
    drawn = rng.normal(usual[:, 0], usual[:, 1])
    mean = sum(f * CRITERIA[d].age[0] for d, f in fractions.items())
    variance = sum(
        f * (CRITERIA[d].age[1] ** 2 + (CRITERIA[d].age[0] - mean) ** 2) for d, f in fractions.items()
    )
    spread = 1.0 if mix.age_sd is None else mix.age_sd / variance**0.5
    middle = mean if mix.age_mean is None else mix.age_mean
    return np.asarray(np.clip(np.rint((middle + (drawn - mean) * spread) / 5) * 5, 5, 95))


def _sexes(
    diagnoses: np.ndarray, fractions: dict[str, float], mix: CaseMix, rng: np.random.Generator
) -> np.ndarray:
    usual = np.array([CRITERIA[d].male for d in diagnoses])
    if mix.male is not None:
        # Diagnoses keep their differences as far as the asked fraction leaves room: 0 and 1 mean none and
        # all.
        room = 4 * mix.male * (1 - mix.male)
        usual = mix.male + room * (usual - sum(f * CRITERIA[d].male for d, f in fractions.items()))
    return np.where(rng.random(len(diagnoses)) < np.clip(usual, 0, 1), "male", "female")


def _anatom_site(diagnosis: str, rng: np.random.Generator) -> str:
    places = dict(_ON_SUN_EXPOSED if diagnosis in ("bcc", "scc", "ak", "bkl") else _ELSEWHERE)
    rest = 1 - sum(places.values())
    places.update({place: rest * share for place, share in _SPREAD.items()})
    return str(rng.choice(list(places), p=np.array(list(places.values())) / sum(places.values())))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
