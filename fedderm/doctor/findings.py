"""What an examination needs to know, and what it finds: one sentence a finding, with its fix."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from fedderm.runtime import Resources
from fedderm.settings import EvaluationSettings, Experiment, ModelSettings
from fedderm.site_file import read_home
from sites.cache import PixelSettings

Level = Literal["stops", "look", "fine"]
"""``stops``: it cannot start until mended. ``look``: works, but know this. ``fine``: nothing to do."""

About = Literal["table", "counts", "images", "identifiers", "machine", "clock", "coordinator"]

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""

LEVELS: Final[tuple[Level, ...]] = ("stops", "look", "fine")


@dataclass(frozen=True)
class Finding:
    """One thing there is to say, and what to do about it."""

    level: Level
    about: About
    sentence: str


@dataclass(frozen=True)
class Examination:
    """What a site is examined for: the part of an experiment that matters to it."""

    data_root: Path | None
    work_dir: Path
    seed: int
    pixels: PixelSettings
    evaluation: EvaluationSettings
    resources: Resources

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """Return the examination for an experiment."""
        return cls(
            experiment.data_root,
            experiment.work_dir,
            experiment.seed,
            experiment.model.pixels(),
            experiment.evaluation,
            experiment.resources,
        )

    @classmethod
    def of_a_hospital(cls, site_file: Path, data_root: Path | None) -> Self:
        """Return the examination for a site file alone: an experiment's defaults, the file's own places.

        ``data_root`` takes the place of the file's.
        """
        seed: int = Experiment.model_fields["seed"].default
        home = read_home(site_file)
        return cls(
            data_root or home.data_root,
            home.work_dir,
            seed,
            ModelSettings().pixels(),
            EvaluationSettings(),
            Resources(),
        )


def in_order_of_weight(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings with what must be mended first; those of one weight keep their order."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))
