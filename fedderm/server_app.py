"""The Flower ServerApp of ``flwr run .``; ``fedderm run`` serves the same way, with a progress bar."""

import logging
import os
import traceback
from collections.abc import Sequence
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedderm import config
from fedderm.combinations import check_choices
from fedderm.deploy.register import node_names
from fedderm.evaluation.long_format import POOLED, LongRow
from fedderm.preparation import prepare
from fedderm.runs import RunFolder
from fedderm.serving import serve
from strategies.errors import Interrupted
from strategies.exchange import Event
from strategies.packing import PackedGrid
from strategies.separate_pulls import SeparatePulls

app = ServerApp()
log = logging.getLogger("flwr")


class _Sentences(logging.Filter):
    """Flower logs whatever ends an app with its traceback; of a sentence for people only that is shown."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True: the record is shown, without a traceback where there is a sentence."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (ValueError, Interrupted)) and _ours(error) and not _debugging():
            record.msg, record.args, record.exc_info = "%s", (str(error),), None
        return True


def _ours(error: BaseException) -> bool:
    """Return whether an error was raised by fedderm, for people, and not by a library in its hands."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].partition(".")[0] in ("fedderm", "strategies", "sites")


def _debugging() -> bool:
    return os.environ.get("FEDDERM_DEBUG") == "1"


log.addFilter(_Sentences())


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config names.

    Run config keys: ``config`` (a YAML file, relative to the working folder or to the app), ``data-root``,
    ``set`` (overrides, separated by blanks), ``resume`` (a run folder to go on with), ``register`` (of a
    federation of real sites, which `fedderm deploy run` names: who each node is).
    """
    values = {key: str(value) for key, value in context.run_config.items()}
    if values.get("resume"):
        if values.get("set"):
            raise ValueError("resume goes on with the run's own config; leave out set, or start anew")
        data_root = Path(values["data-root"]) if values.get("data-root") else None
        folder = RunFolder.open(Path(values["resume"]), data_root)
    else:
        data_root = Path(values["data-root"]) if values.get("data-root") else None
        overrides = values.get("set", "").split()
        experiment = config.load(_find(values.get("config", "")), overrides, data_root)
        check_choices(experiment)
        folder = RunFolder.create(experiment.alone())
    observer = LogObserver()
    if values.get("register"):
        # Sites are on their own machines: there is nothing here to load or to audit.
        names = node_names(Path(values["register"]))
        serve(PackedGrid(SeparatePulls(grid)), folder, observer, None, registered=names)
    else:
        serve(grid, folder, observer, prepare(folder.experiment, folder, observer))
    log.info("report: %s", folder.path / "report.html")


def _find(name: str) -> Path:
    """Return the config's path: from the working folder, or else from the app's own bundle."""
    bundled = Path(__file__).resolve().parents[1] / name
    return Path(name) if Path(name).is_file() or not bundled.is_file() else bundled


class LogObserver:
    """Writes a run's course to Flower's log."""

    def stage(self, title: str, sites: Sequence[str]) -> None:
        """Log what begins."""
        log.info("%s: %s", title, ", ".join(sites))

    def site(self, event: Event) -> None:
        """Log a site's answer."""
        if event.kind in ("arrived", "failed"):
            log.info("  %s %s after %.1f s", event.member.name, event.kind, event.seconds)

    def round_done(self, number: int, rounds: int, rows: Sequence[LongRow]) -> None:
        """Log the pooled AUC."""
        for row in rows:
            if row["site"] == POOLED and row["metric"] == "auc" and row["unit"] == "image" and row["value"]:
                log.info("round %d/%d: %s AUC %.3f", number, rounds, row["role"], row["value"])

    def warn(self, sentence: str) -> None:
        """Log a warning."""
        log.warning("%s", sentence)

    def say(self, sentence: str) -> None:
        """Log what was decided."""
        log.info("%s", sentence)

    def progress(self, title: str, done: int, total: int) -> None:
        """Log the end of a longer preparation."""
        if done == total:
            log.info("%s: %d", title, total)
