"""The section ``compare`` of a config: which arms, seeds and hyperparameters one comparison runs."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Label = Annotated[str, Field(min_length=1, max_length=60)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class CompareSettings(BaseModel):
    """Arms x grid x seeds, over one federation and one audit."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    reference: Label
    """Label of the arm that all others are compared with; with a grid, of the arm with its value."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Of training: initial weights and draws. The data's seed, of splits and simulated centres, stays the
    experiment's."""
    protocol: Literal["fixed", "leave_one_site_out", "lesion_folds"] = "fixed"
    """leave_one_site_out: each site in turn is held out while all others train. lesion_folds:
    cross-validation, each of ``folds`` parts of every site's lesions is tested in turn."""
    folds: Annotated[int, Field(ge=2, le=20)] | None = None
    """Of lesion_folds; None: 5."""
    leave_out: Annotated[list[str], Field(min_length=1)] | None = None
    """Sites that are left out in turn; None: all. A held-out site that is not among them stays held out
    throughout."""
    arms: Annotated[dict[Label, dict[str, Any]], Field(min_length=1)]
    """Label to what differs from the experiment; sections are merged key by key."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Dotted path to values; every arm is run with each combination of them."""
    triage_steps: list[Annotated[float, Field(gt=0, lt=1)]] = []
    """Calibrated P(malignant) at which triage is also tried: macro-F1 of the four-class decision at each."""
    pairs: list[tuple[Label, Label]] = []
    """Arms that are also tested against each other, the second less the first; with a grid, of the arms with
    its values. Holm's method makes them a family of their own."""
    cell_bootstrap: Annotated[int, Field(ge=0, le=20000)] = 0
    """Resamples behind the intervals of each cell's own report. The comparison's own statistics take
    evaluation.bootstrap."""

    @model_validator(mode="after")
    def _seeds_and_sites_stand_once(self) -> Self:
        lists: dict[str, list[Any]] = {
            "seeds": [*self.seeds],
            "leave_out": [*(self.leave_out or [])],
            "triage_steps": [*self.triage_steps],
            "pairs": [*self.pairs],
        }
        for key, values in lists.items():
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ValueError(f"{key}: {twice[0]} stands twice; name each once")
        if self.leave_out is not None and self.protocol != "leave_one_site_out":
            raise ValueError("leave_out belongs to protocol: leave_one_site_out; set it or remove leave_out")
        if self.folds is not None and self.protocol != "lesion_folds":
            raise ValueError("folds belongs to protocol: lesion_folds; set it or remove folds")
        return self

    @model_validator(mode="after")
    def _labels_make_folders(self) -> Self:
        for label in self.arms:
            if not slug(label):
                raise ValueError(
                    f"arms.{label}: a label needs a letter or digit, it becomes the name of a folder"
                )
        return self


def slug(label: str) -> str:
    """Return an arm's label as a folder's name: lower case, one dash for whatever is no letter, digit or
    dot; empty where nothing is left."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")
