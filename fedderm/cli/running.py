"""What ``fedderm run`` does, from config to the table at the end."""

import shlex
import shutil
from pathlib import Path

from fedderm import config
from fedderm.cli.console import Console
from fedderm.cli.stopping import stop_is_ctrl_c
from fedderm.runs import RunFolder
from strategies.errors import Interrupted


def start(
    path: Path | None, data_root: Path | None, overrides: list[str], resume: Path | None, console: Console
) -> None:
    """Run an experiment, or go on with one; print the sites' table and where the report lies."""
    folder = _resumed(path, data_root, overrides, resume) if resume else _fresh(path, data_root, overrides)
    console.show(f"run folder: {folder.path}")
    if folder.state()["finished"]:
        console.say("this run is finished; its report is drawn again")
        from fedderm.report import build_report

        build_report(folder.path)
    else:
        _run(folder, console, fresh=resume is None)
    console.site_table(folder.path)
    console.show(f"report: {folder.path / 'report.html'}")


def _run(folder: RunFolder, console: Console, *, fresh: bool) -> None:
    hint = f"go on with: fedderm run --resume {shlex.quote(str(folder.path))}"
    try:
        with stop_is_ctrl_c(), console:  # while sites are prepared, too
            from fedderm.simulation import run_simulation

            run_simulation(folder, console)
    except (Interrupted, KeyboardInterrupt) as error:
        raise Interrupted(f"interrupted; finished rounds are kept; {hint}") from error
    except (ValueError, OSError) as error:
        if folder.state()["round"]:
            console.show(hint)
        elif fresh and folder.read_json("audit.json") is None:
            # The sites could not even be loaded: there is nothing to go on with.
            shutil.rmtree(folder.path, ignore_errors=True)
        raise error


def _fresh(path: Path | None, data_root: Path | None, overrides: list[str]) -> RunFolder:
    if path is None:
        raise ValueError("give a config, such as configs/demo.yaml, or --resume with a run's folder")
    experiment = config.load(path, overrides, data_root)
    from fedderm.combinations import check_choices
    from fedderm.runtime import require_gpus

    check_choices(experiment)
    require_gpus(experiment.resources)
    return RunFolder.create(experiment.alone())


def _resumed(path: Path | None, data_root: Path | None, overrides: list[str], resume: Path) -> RunFolder:
    if path is not None or overrides:
        raise ValueError(
            "--resume goes on with the run's own config; leave out the config and --set, or start anew"
        )
    return RunFolder.open(resume, data_root)
