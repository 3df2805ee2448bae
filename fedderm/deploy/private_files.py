"""Files and folders that nobody else on a machine may read: keys, tokens, the register."""

import os
import stat
from pathlib import Path


def new_private_folder(path: Path) -> None:
    """Make a folder of mode 0700; raises ValueError where something is there already."""
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        raise ValueError(
            f"{path}: is there already and nothing is overwritten; choose another place"
        ) from error
    path.chmod(0o700)  # whatever the umask is


def write_private(path: Path, content: bytes, *, replace: bool = False) -> None:
    """Write a file of mode 0600, whole or not at all.

    Raises ValueError where a file is there already, unless it may be replaced.
    """
    if path.exists() and not replace:
        raise ValueError(f"{path}: is there already and nothing is overwritten; move it away first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        # The mode from the first moment: never a key that others could have read.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_private(path: Path, what: str) -> bytes:
    """Return a private file's content; raises ValueError where it is missing or others may read it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: {what} is missing; put it back from your backup") from error
    if mode & 0o077:
        raise ValueError(
            f"{path}: {what} can be read by others on this machine (mode {mode:04o}); "
            f"chmod 600 {path}, and replace it if somebody may have read it (fedderm deploy rotate)"
        )
    return path.read_bytes()


def require_private_folder(path: Path) -> None:
    """Return if only its owner may enter a folder; raises ValueError otherwise."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ValueError(
            f"{path}: others on this machine can enter this folder, which holds keys (mode {mode:04o}); "
            f"chmod 700 {path}"
        )
