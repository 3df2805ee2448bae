"""systemd units: both processes start at boot and again when they end."""

import sys
from pathlib import Path

_UNIT = """\
# {title}. Install it, as root, once:
#   cp {file} /etc/systemd/system/{name}.service
#   systemctl daemon-reload && systemctl enable --now {name}
# Its log: journalctl -u {name}
[Unit]
Description={title}
Wants=network-online.target
After=network-online.target

[Service]
User={user}
ExecStart={command}
WorkingDirectory={folder}
Restart=always
RestartSec=30
KillMode=mixed
TimeoutStopSec=60
UMask=0077
NoNewPrivileges=true
PrivateTmp=true
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""


def superlink_unit(federation: str, folder: Path) -> str:
    """Return the unit of the coordinator's SuperLink."""
    return _unit(f"fedderm coordinator of {federation}", "fedderm-superlink", "superlink", folder)


def supernode_unit(federation: str, folder: Path) -> str:
    """Return the unit of a hospital's SuperNode."""
    return _unit(f"fedderm site in {federation}", "fedderm-supernode", "supernode", folder)


def _unit(title: str, name: str, verb: str, folder: Path) -> str:
    program = Path(sys.executable).with_name("fedderm")
    return _UNIT.format(
        title=title,
        name=name,
        file=_quoted(folder / f"{name}.service"),
        user=folder.owner(),
        command=f"{_quoted(program)} deploy {verb} {_quoted(folder)}",
        folder=str(folder).replace("%", "%%"),
    )


def _quoted(path: Path) -> str:
    """Return a path as systemd reads it: in quotes, and per cent signs, which it would expand, doubled."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
