"""What a tracker is told: named numbers, read from the tables of the run's own folder.

A tracker can only say what the folder says, in the same digits, and can be brought up to date at any time.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from fedderm.round_metrics import METRICS, rows_after
from fedderm.runs import RunFolder
from fedderm.settings import Experiment

KEYS: Final = ("metric", "unit", "split", "role", "site")
"""The columns of the long format that name a value, in the order in which they stand in a tag."""

FINAL: Final = "final"
"""Before the tags of ``evaluation/metrics.csv``: its views and threshold are not those of the rounds."""

_BOUNDS: Final = {"value": FINAL, "lower": f"{FINAL}-lower", "upper": f"{FINAL}-upper"}

_NO_HYPERPARAMETERS: Final = (
    "name",
    "data_root",
    "work_dir",
    "runs_dir",
    "resources",
    "tracking",
    "compare",
    "sites",
)


class Point(NamedTuple):
    """One value of one curve; ``step`` is the round."""

    tag: str
    step: int
    value: float


def points_by_round(folder: RunFolder, after: int = 0) -> dict[int, list[Point]]:
    """Return the points of each finished round after round ``after``.

    They are those of ``rounds/metrics.csv``, then those of the history in ``rounds/state.json``. A row
    without a value has no point, and neither has a round that was written but never finished.
    """
    state = folder.state()
    found: dict[int, list[Point]] = {number: [] for number in range(after + 1, int(state["round"]) + 1)}
    for row in rows_after(folder.path / "rounds" / METRICS, after):
        number = int(row["round"])
        if number in found and row["value"]:
            found[number].append(Point(tag_of(row), number, float(row["value"])))
    for entry in state["history"]:
        if entry["round"] > after:
            found[entry["round"]] += _points_of_entry(entry)
    return found


def points_of_conclusion(folder: RunFolder) -> list[Point]:
    """Return the points of ``evaluation/metrics.csv``, the final model's: values, and their bounds."""
    return [
        Point(f"{prefix}/{tag_of(row)}", folder.experiment.rounds, float(row[column]))
        for row in rows_after(folder.path / "evaluation" / METRICS, -1)
        for column, prefix in _BOUNDS.items()
        if row[column]
    ]


def tag_of(row: Mapping[str, Any]) -> str:
    """Return a row's tag, such as ``auc/image/test/held-out/(pooled)``.

    TensorBoard and MLflow group curves by what stands before the first slash.
    """
    return "/".join(str(row[key]) for key in KEYS)


def hyperparameters(experiment: Experiment) -> dict[str, str | int | float | bool]:
    """Return the settings that two runs may differ in, by dotted path; no sites, no machine, no paths."""
    sections = experiment.model_dump(mode="json", exclude=set(_NO_HYPERPARAMETERS))
    return dict(_leaves(sections))


def _leaves(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        elif isinstance(value, str | int | float | bool):
            yield f"{above}{key}", value


def _points_of_entry(entry: Mapping[str, Any]) -> Iterator[Point]:
    """Yield what a round cost and what each site reported; what is no number has no curve."""
    number = int(entry["round"])
    for key in ("seconds", "bytes_down", "bytes_up", "evaluation_bytes_down", "evaluation_bytes_up"):
        if key in entry:
            yield Point(f"round/{key}", number, float(entry[key]))
    yield Point("round/refused", number, float(len(entry.get("refused", {}))))
    for site, metrics in entry.get("sites", {}).items():
        for name, value in metrics.items():
            if isinstance(value, int | float):
                yield Point(f"training/{name}/{site}", number, float(value))
