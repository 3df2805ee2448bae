"""A run over registered hospitals: handed to the SuperLink, followed to its end, stopped with Ctrl-C."""

import hashlib
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.supercore.fab import Fab

from fedderm.deploy.control import Control, control
from fedderm.deploy.coordinator import Coordinator
from fedderm.deploy.documents import versions
from fedderm.deploy.history import note_run
from fedderm.deploy.register import read_register
from fedderm.runs import RunFolder
from fedderm.settings import Experiment
from strategies.errors import Interrupted

_BUNDLE = """\
[project]
name = "fedderm"
version = "{version}"
dependencies = []

[tool.flwr.app]
publisher = "fedderm"

[tool.flwr.app.components]
serverapp = "fedderm.server_app:app"
clientapp = "fedderm.client_app:app"

[tool.flwr.app.config]
resume = ""
register = ""
"""


def require_joined(coordinator: Coordinator, experiment: Experiment) -> None:
    """Return if each site of the experiment is registered; raises ValueError naming those that are not."""
    register, now = read_register(coordinator.register), datetime.now(UTC)
    missing = []
    for site in experiment.sites:
        key = register.current(site.name)
        if key is None or key.site != site.name or now >= key.expires:
            missing.append(site.name)
    if missing:
        joined = sorted(key.site for key in register.keys if key.revoked is None and now < key.expires)
        raise ValueError(
            f"sites: {', '.join(missing)} not registered with this federation; registered are "
            f"{', '.join(joined) or 'none yet'}; call the config's sites as their kits are called"
        )


def require_running(coordinator: Coordinator) -> None:
    """Return if the SuperLink answers; raises ValueError otherwise, before a run has a folder."""
    with control(coordinator) as calls:
        calls.runs(limit=1)


def bundle() -> Fab:
    """Return the bundle that Flower wants for a run: a few lines, as all code is installed everywhere."""
    text = _BUNDLE.format(version=versions().fedderm)
    content, _ = build_fab_from_files({"pyproject.toml": text.encode()})
    return Fab(hashlib.sha256(content).hexdigest(), content, {})


def follow_run(coordinator: Coordinator, folder: RunFolder, show: Callable[[str], None]) -> None:
    """Have the SuperLink run the folder's experiment, or go on with it, and return when it has finished.

    ``show`` is given the server app's log as it comes. Raises ValueError where the run ends early,
    Interrupted after Ctrl-C, which stops it.
    """
    with control(coordinator) as calls:
        calls.apply_register(coordinator)
        config = {"resume": str(folder.path), "register": str(coordinator.register)}
        run_id = calls.start(bundle(), {**config})
        note_run(coordinator, run_id, folder.path)
        try:
            for part in calls.log(run_id):
                show(part)
        except KeyboardInterrupt as error:
            calls.stop(run_id)
            raise Interrupted(
                f"interrupted; finished rounds are kept; {_go_on(coordinator.path, folder.path)}"
            ) from error
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            raise ValueError(
                "the SuperLink stopped during the run; start it again, then "
                f"{_go_on(coordinator.path, folder.path)}"
            ) from error
        _require_finished(calls, run_id, coordinator, folder)


def _require_finished(calls: Control, run_id: int, coordinator: Coordinator, folder: RunFolder) -> None:
    state = folder.state()
    if state["finished"]:
        return
    why = str(state.get("stopped") or calls.run(run_id).details or "it was stopped")
    raise ValueError(f"{why}; {_go_on(coordinator.path, folder.path)}")


def _go_on(federation: Path, run: Path) -> str:
    return f"go on with: fedderm deploy run {shlex.quote(str(federation))} --resume {shlex.quote(str(run))}"
