"""The hospital's own fedderm answers, never code that a coordinator sent.

Flower sends a run's app, code and all, from the coordinator to every node, unpacks it there and runs it; an
app without a policy would obey none. A SuperNode starts what answers a message by its name,
``flwr-clientapp``, from the PATH. ``own_commands`` makes a folder to put before that PATH: its
``flwr-clientapp`` is this module, which takes Flower's message and gives it to the fedderm that is installed
here. The app that came along is neither unpacked nor read. Written for Flower 1.41, whose parts are replaced
by name: where one is missing, nothing is answered.
"""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_CODE_OF_OTHERS: Final = (
    "flwr-agentapp",
    "flwr-connector",
    "flwr-model",
    "flwr-serverapp",
    "flwr-simulation",
)
"""What else a SuperNode would start on a coordinator's word, with the coordinator's code."""


def node_environment(folder: Path) -> dict[str, str]:
    """Return the environment to start ``flower-supernode`` in, after writing its commands into ``folder``."""
    own_commands(folder)
    return {
        **os.environ,
        "PATH": f"{folder.resolve()}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
    }


def own_commands(folder: Path) -> None:
    """Write the commands that a SuperNode may start into ``folder``, which only its owner may change."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    run = f'exec {shlex.quote(sys.executable)} -m {__name__} "$@"'
    _write(folder / "flwr-clientapp", run)
    for name in _CODE_OF_OTHERS:
        _write(folder / name, f"echo 'fedderm: a hospital answers messages and runs no {name}' >&2; exit 1")


def _write(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    path.chmod(0o700)


def main() -> None:
    """Answer one message, as ``flwr-clientapp`` does, with the app that is installed here."""
    from flwr.supernode.cli import flwr_clientapp
    from flwr.supernode.runtime import run_clientapp

    from fedderm.client_app import app

    def own_app(*_: Any, **__: Any) -> Any:
        return lambda *_: app

    def nothing(*_: Any, **__: Any) -> None:
        return None

    _replace(run_clientapp, "get_load_client_app_fn", own_app)
    for name in ("install_from_fab", "get_project_dir", "install_app_dependencies"):
        _replace(run_clientapp, name, nothing)
    sys.argv[0] = "flwr-clientapp"  # by which Flower tells what it is that ends
    flwr_clientapp()


def _replace(module: Any, name: str, by: Callable[..., Any]) -> None:
    if not hasattr(module, name):
        raise RuntimeError(f"Flower's {module.__name__} has no {name}; install flwr 1.41")
    setattr(module, name, by)


if __name__ == "__main__":
    main()
