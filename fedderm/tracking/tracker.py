"""Trackers beside a run: brought up to date after each round, and never in its way."""

from collections.abc import Callable, Sequence
from typing import Protocol

from fedderm.evaluation.long_format import LongRow
from fedderm.federation.session import Observer
from fedderm.runs import RunFolder
from fedderm.settings import TrackingSettings
from strategies.exchange import Event


class Tracker(Protocol):
    """Something that shows a run's points elsewhere and can be brought up to what the folder holds."""

    @property
    def name(self) -> str:
        """Return what a warning calls it."""

    def update(self) -> None:
        """Take in the finished rounds that are not there yet."""

    def conclude(self) -> None:
        """Take in the final model."""

    def stop(self) -> None:
        """Take note that the sitting ends before the run does."""


class TrackingObserver:
    """An observer that hands on what it is told, and keeps the run's trackers up to date.

    Whatever goes wrong with a tracker is told once and costs the run nothing: its folder holds the same
    numbers. Such a tracker is tried again at the run's end, and by the next sitting.
    """

    def __init__(self, folder: RunFolder, inner: Observer) -> None:
        self._inner = inner
        self._trackers = open_trackers(folder)
        self._failed: set[str] = set()
        self._concluded = False

    def begin(self) -> None:
        """Bring the trackers up to what earlier sittings finished."""
        self._each("be brought up to date", lambda tracker: tracker.update())

    def conclude(self) -> None:
        """Show the final model; a tracker that failed before is tried once more."""
        told, self._failed = self._failed, set()
        self._each("take in the final model", lambda tracker: tracker.conclude(), silent=told)
        self._concluded = True

    def end(self) -> None:
        """Tell the trackers that the sitting ends, where it ends before the run does."""
        if not self._concluded:
            self._each("be closed", lambda tracker: tracker.stop())

    def stage(self, title: str, sites: Sequence[str]) -> None:
        """Hand on what begins."""
        self._inner.stage(title, sites)

    def site(self, event: Event) -> None:
        """Hand on what a site did."""
        self._inner.site(event)

    def round_done(self, number: int, rounds: int, rows: Sequence[LongRow]) -> None:
        """Hand on a finished round, which stands in the folder by now, and show it."""
        self._inner.round_done(number, rounds, rows)
        self._each("take in a round", lambda tracker: tracker.update())

    def warn(self, sentence: str) -> None:
        """Hand on a warning."""
        self._inner.warn(sentence)

    def _each(
        self, what: str, act: Callable[[Tracker], None], silent: set[str] | frozenset[str] = frozenset()
    ) -> None:
        for tracker in self._trackers:
            if tracker.name in self._failed:
                continue
            try:
                act(tracker)
            # A store may fail in any way that its own packages, a disk or a network can think of.
            except Exception as error:
                self._failed.add(tracker.name)
                if tracker.name not in silent:
                    self._inner.warn(
                        f"{tracker.name} cannot {what} ({_brief(error)}); the run goes on, its folder holds "
                        "the same numbers, and it is tried again at the end"
                    )


def open_trackers(folder: RunFolder) -> list[Tracker]:
    """Return the trackers that the config asks for; nothing is written or reached yet."""
    settings = folder.experiment.tracking
    found: list[Tracker] = []
    if settings.tensorboard:
        from fedderm.tracking.event_files import EventFiles

        found.append(EventFiles(folder))
    if settings.mlflow is not None:
        from fedderm.tracking.mlflow_run import MlflowRun

        found.append(MlflowRun(folder, settings.mlflow))
    return found


def check_tracking(settings: TrackingSettings) -> None:
    """Raise ValueError, with the command that mends it, where a tracker's packages are not installed."""
    if settings.mlflow is not None:
        from fedderm.tracking.mlflow_run import require_mlflow

        require_mlflow(settings.mlflow)


def _brief(error: Exception, longest: int = 200) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else text[: longest - 1] + "…"
