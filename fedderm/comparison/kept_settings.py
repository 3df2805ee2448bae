"""Whether a cell's folder was made with the settings that the comparison has now."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fedderm import config
from fedderm.settings import Experiment

_ELSEWHERE: Final = ("data_root", "work_dir", "runs_dir", "resources", "tracking", "compare")
"""What may change between sittings: where things lie and what they run on."""
_MOST_NAMED: Final = 3


def refuse_other_settings(folder: Path, cell: str, planned: Experiment) -> None:
    """Raise ValueError where the cell's folder was made with other settings than ``planned``.

    A folder without a config has not been begun.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return
    before, now = _values(config.load(path)), _values(planned)
    if before == now:
        return
    told = [f"{where}: {_shown(old)}, now {_shown(new)}" for where, old, new in _differences(before, now)]
    more = f" and {len(told) - _MOST_NAMED} more" if len(told) > _MOST_NAMED else ""
    raise ValueError(
        f"cells/{cell} was run with other settings ({'; '.join(told[:_MOST_NAMED])}{more}); remove it, or "
        "restore the comparison's config.yaml"
    )


def _values(experiment: Experiment) -> dict[str, Any]:
    values = experiment.model_dump(mode="json")
    return {key: value for key, value in values.items() if key not in _ELSEWHERE}


def _differences(before: Any, now: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted path, old, new) of single values; of lists of unlike length the whole."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _differences(old, new, f"{where}[{index}]")
    elif before != now:
        yield where, before, now


def _shown(value: Any) -> str:
    text = "empty" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
