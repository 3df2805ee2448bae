"""A run's points as TensorBoard event files, one a round, each written whole.

A file a round, instead of one that grows: a round that is done again replaces its own file, and a kill leaves
no half record. TensorBoard reads all files of a folder as one run, in the order of their names.
"""

import io
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from fedderm import config
from fedderm.evaluation.counts import UNITS
from fedderm.evaluation.long_format import POOLED
from fedderm.evaluation.metrics import METRICS
from fedderm.runs import RunFolder
from fedderm.tracking.points import (
    FINAL,
    Point,
    hyperparameters,
    points_by_round,
    points_of_conclusion,
    tag_of,
)
from fedderm.whole_file import write_whole

_COMPARED: Final = ("auc", "balanced_accuracy", "sensitivity", "specificity")
"""Metrics of the pools that stand beside the hyperparameters; all others are in the other tabs."""


class EventFiles:
    """The folder ``tensorboard`` of a run, kept in step with the run's own tables."""

    name = "TensorBoard's files"

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._path = folder.path / "tensorboard"

    def update(self) -> None:
        """Write the files of finished rounds that lack one; raises OSError where the disk refuses."""
        done = int(self._folder.state()["round"])
        self._path.mkdir(exist_ok=True)
        self._drop_unfinished(done)
        if not self._file(0).exists():
            self._write(self._file(0), _settings(self._folder))
        missing = [number for number in range(1, done + 1) if not self._file(number).exists()]
        if missing:
            points = points_by_round(self._folder, after=missing[0] - 1)
            for number in missing:
                self._write(self._file(number), [_scalars(points[number])])

    def conclude(self) -> None:
        """Write the final model's file, in place of an earlier one; raises OSError where the disk refuses."""
        self.update()
        points = points_of_conclusion(self._folder)
        self._write(self._final(), [_scalars(points)])

    def stop(self) -> None:
        """Do nothing: files have no state that a stopped run would leave behind."""

    def _drop_unfinished(self, done: int) -> None:
        """Remove the files of rounds that the folder does not know (any more): they will be held again."""
        for path in self._path.glob("events.out.tfevents.[0-9]*.fedderm"):
            if int(path.name.split(".")[3]) > done:
                path.unlink()

    def _file(self, number: int) -> Path:
        return self._path / f"events.out.tfevents.{number:06d}.fedderm"

    def _final(self) -> Path:
        return self._path / "events.out.tfevents.final.fedderm"

    def _write(self, path: Path, summaries: Iterable[tuple[int, Summary]]) -> None:
        content, now = io.BytesIO(), time.time()
        writer = RecordWriter(content)
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for step, summary in summaries:
            writer.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())
        write_whole(path, content.getvalue())


def _scalars(points: Sequence[Point]) -> tuple[int, Summary]:
    """Return the points, all of one round, as TensorBoard holds them: in single precision."""
    values = [Summary.Value(tag=point.tag, simple_value=point.value) for point in points]
    return (points[0].step if points else 0), Summary(value=values)


def _settings(folder: RunFolder) -> list[tuple[int, Summary]]:
    """Return the resolved config as text, its hyperparameters, and charts that show all sites in one."""
    experiment = folder.experiment
    values = hyperparameters(experiment)
    metrics = [hparams.Metric(tag, display_name=tag.removeprefix(f"{FINAL}/")) for tag in _compared()]
    return [
        (0, _text("config", f"```yaml\n{config.dump(experiment)}```")),
        (0, hparams.hparams_config_pb([hparams.HParam(name) for name in values], metrics)),
        (0, hparams.hparams_pb(values, trial_id=f"{experiment.name}/{folder.path.name}")),
        (0, _charts()),
    ]


def _compared() -> list[str]:
    pools = [
        {"unit": "lesion", "split": "test", "role": role, "site": POOLED} for role in ("held-out", "train")
    ]
    return [f"{FINAL}/{tag_of({'metric': metric, **pool})}" for pool in pools for metric in _COMPARED]


def _text(tag: str, content: str) -> Summary:
    tensor = TensorProto(dtype=DT_STRING, string_val=[content.encode()])
    return Summary(
        value=[Summary.Value(tag=tag, tensor=tensor, metadata=text_metadata.create_summary_metadata(tag, ""))]
    )


def _charts() -> Summary:
    """Return the layout of the tab Custom Scalars: one chart a metric, one curve a site or pool."""
    categories = [
        layout_pb2.Category(
            title=f"by site, {unit}s of the test splits",
            chart=[_chart(metric, f"^{metric}/{unit}/test/") for metric in METRICS],
            closed=position > 0,
        )
        for position, unit in enumerate(UNITS)
    ]
    losses = layout_pb2.Category(title="training", chart=[_chart("loss", "^training/loss/")])
    layout = layout_pb2.Layout(category=[*categories, losses])
    tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()])
    tag, metadata = layout_metadata.CONFIG_SUMMARY_TAG, layout_metadata.create_summary_metadata()
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])


def _chart(title: str, tags: str) -> layout_pb2.Chart:
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[tags]))
