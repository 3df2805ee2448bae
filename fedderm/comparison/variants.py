"""Arms and the grid: each arm of the section ``compare`` with each combination of the grid's values."""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from fedderm.compare_settings import CompareSettings

Raw = dict[str, Any]

_COMMON: Final = ("name", "seed", "sites", "compare", "data_root", "work_dir", "runs_dir", "resources")
"""What all cells share: one federation, one audit, one machine."""
_COMMON_WITHIN: Final = {
    "training": {"seed": "compare.seeds"},
    "evaluation": {"bootstrap": "compare.cell_bootstrap"},
}
_REPLACED_BY: Final = {
    "name": ("proximal_mu", "parameters"),  # of a strategy
    "local_steps": ("local_epochs",),
    "local_epochs": ("local_steps",),
    "baseline": ("baseline_site",),
}


class Variant(NamedTuple):
    """An arm with one combination of the grid's values."""

    arm: str
    """Its label in the config."""
    label: str
    """With the values."""
    changes: Raw


def variants(settings: CompareSettings) -> Iterator[Variant]:
    """Yield each arm with each combination of the grid's values."""
    for path in settings.grid:
        refuse_common(_nested(path, None), "compare.grid")
    short = [path.rpartition(".")[2] for path in settings.grid]
    names = short if len(set(short)) == len(short) else list(settings.grid)
    for label, changes in settings.arms.items():
        for values in itertools.product(*settings.grid.values()):
            told = [f"{name} {_shown(value)}" for name, value in zip(names, values, strict=True)]
            varied = changes
            for path, value in zip(settings.grid, values, strict=True):
                varied = merged(varied, _nested(path, value))
            yield Variant(label, ", ".join([label, *told]), varied)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Raw:
    """Return ``base`` with ``changes`` merged in key by key.

    What can only stand instead of something else replaces it: another strategy comes without the parameters
    of the base's, steps replace passes, another baseline has its own site.
    """
    replaced = {
        one for key, value in changes.items() if base.get(key) != value for one in _REPLACED_BY.get(key, ())
    }
    result = {key: value for key, value in base.items() if key not in replaced}
    for key, value in changes.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result


def refuse_common(changes: Raw, where: str) -> None:
    """Raise ValueError where an arm would change what all arms share."""
    for key, value in changes.items():
        if key in _COMMON:
            raise ValueError(f"{where}.{key}: all arms share it; set {key} for the whole experiment")
        for inner, instead in _COMMON_WITHIN.get(key, {}).items():
            if isinstance(value, dict) and inner in value:
                raise ValueError(f"{where}.{key}.{inner}: is set by {instead}; remove it here")


def _nested(path: str, value: Any) -> Raw:
    *parents, last = path.split(".")
    found: Raw = {last: value}
    for key in reversed(parents):
        found = {key: found}
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
