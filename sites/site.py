"""What every site of an experiment may say about itself, whatever its source."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sites.acquisition import AcquisitionProfile
from sites.case_mix import CaseMix
from sites.diagnoses import AkPolicy

Role = Literal["train", "held-out"]
Split = Literal["train", "calibration", "test"]


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitFractions(Settings):
    """Fractions of a site's lesions; they sum to 1."""

    train: Annotated[float, Field(ge=0, le=1)]
    calibration: Annotated[float, Field(ge=0, le=1)]
    test: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train + self.calibration + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the fractions sum to {total:g}; they must sum to 1")
        return self

    def items(self) -> list[tuple[Split, float]]:
        """Return (split, fraction) in the fixed order train, calibration, test."""
        return [("train", self.train), ("calibration", self.calibration), ("test", self.test)]


class Slice(Settings):
    """One of ``of`` disjoint parts of a source's lesions (by hash of the lesion id)."""

    index: Annotated[int, Field(ge=0)]
    of: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _index_below(self) -> Self:
        if self.index >= self.of:
            raise ValueError(f"index {self.index} is out of range; with of: {self.of} use 0 to {self.of - 1}")
        return self


class SiteSettings(Settings):
    """Settings common to all sources; each source adds its own and a ``source`` literal."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
    role: Role = "train"
    path: Path | None = None
    """The source's folder; relative paths start at the data root. None: the source's usual folder name."""
    select: dict[str, str | list[str]] = {}
    """Keep rows whose column equals the value, or one of the values."""
    slice: Slice | None = None
    fold: Slice | None = None
    """Cross-validation: the test split is this one of ``of`` disjoint parts of the site's lesions; train
    and calibration share the others as in ``splits``. compare.protocol: lesion_folds sets it."""
    ak_policy: AkPolicy = "exclude"
    splits: SplitFractions | None = None
    """None: 0.65/0.10/0.25 for a training site, 0/0.5/0.5 for a held-out one."""
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.05
    """The site does not start when a larger fraction of its listed images is missing or unreadable."""
    only_present: bool = False
    """Take only rows whose image is at hand and report how many were not, for a copy known to be partial."""
    gives_way_to: list[str] = []
    """Sites that keep a lesion or image which this site holds too."""
    acquisition: AcquisitionProfile | None = None
    """A simulated device through which this site's images are seen."""
    case_mix: CaseMix | None = None
    annotations: Path | None = None
    """A table of what annotators say of dermoscopic patterns (sites.annotations); relative paths start at
    the data root. It never leaves the site."""
    min_cell: Annotated[int, Field(ge=0)] = 0
    """Counts below this (and above zero) do not leave the site; 10 is common at hospitals."""

    def fractions(self) -> SplitFractions:
        """Return the split fractions in force. A held-out site has no train split."""
        if self.splits is not None:
            return self.splits
        if self.role == "train":
            return SplitFractions(train=0.65, calibration=0.10, test=0.25)
        return SplitFractions(train=0.0, calibration=0.5, test=0.5)

    @model_validator(mode="after")
    def _role_fits_splits(self) -> Self:
        if self.role == "held-out" and self.splits is not None and self.splits.train > 0:
            raise ValueError("a held-out site has no train split; set splits.train to 0")
        if self.fold is not None and (self.role != "train" or self.fold.of < 2):
            raise ValueError(
                "fold leaves a part of a training site's lesions for its test; set of to 2 or more and role: "
                "train, or remove fold"
            )
        if self.role == "train" and self.fractions().train == 0:
            raise ValueError(
                "a training site needs a train split; set splits.train above 0, or role: held-out"
            )
        return self
