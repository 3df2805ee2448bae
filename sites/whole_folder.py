"""Folders that are made whole or not at all: by one process while others wait, across kills and full
disks."""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from filelock import FileLock, Timeout

from sites.errors import SiteError

Content = TypeVar("Content")

_PARTIAL: Final = ".building-"
_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ENTRY: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_REMEDY: Final = (
    "free some space (whatever is in this folder can be made again and may be deleted), choose another cache "
    "folder or a smaller image_size"
)


def open_or_make(
    folder: Path,
    read: Callable[[], Content | None],
    write: Callable[[Path], None],
    needed: int,
    timeout: float,
) -> Content:
    """Return what ``read`` finds in the folder, after ``write`` has made it where ``read`` finds nothing.

    ``write`` fills a partial folder, which is then renamed, so ``read`` (None: absent or damaged) never
    sees half of one. ``needed`` is what it will take up, in bytes. Partial folders that killed processes
    left are removed. Raises SiteError for a disk that is full or becomes full, a folder that is not
    writable, and another process that has held the lock for ``timeout`` seconds; nothing half-made is left
    then.
    """
    if (content := read()) is not None:
        return content
    with _one_sentence(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        with _lock(folder, timeout):
            # Whoever held the lock before may have made what is wanted.
            if (content := read()) is None:
                _check_space(folder, needed)
                _make(folder, write)
                content = read()
    if content is None:
        raise SiteError(f"{folder}: what was just written cannot be read again; check that disk")
    return content


def _make(folder: Path, write: Callable[[Path], None]) -> None:
    partial = folder.with_name(f"{_PARTIAL}{folder.name}")
    try:
        partial.mkdir()
        write(partial)
        shutil.rmtree(folder, ignore_errors=True)  # one that was damaged
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _lock(folder: Path, timeout: float) -> Iterator[None]:
    """Hold the folder's lock. The kernel lets go of it when its holder dies, however that happens."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise SiteError(
            f"{folder}: another process has been making this folder for {timeout:g} s; wait for it or stop it"
        ) from None
    except NotImplementedError:
        raise SiteError(
            f"{folder.parent}: this file system has no file locks; choose another cache folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _sweep(root: Path) -> None:
    """Remove partial folders whose lock nobody holds."""
    for partial in root.glob(f"{_PARTIAL}*"):
        lock = FileLock(root / f"{partial.name.removeprefix(_PARTIAL)}.lock")
        with suppress(Timeout, NotImplementedError), lock.acquire(timeout=0):
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _one_sentence(root: Path) -> Iterator[None]:
    """Turn a disk that became full, or is forbidden, into a SiteError."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise SiteError(
                f"{root}: the disk became full ({error.strerror}), the partial result is removed; {_REMEDY}"
            ) from error
        if error.errno in _NO_ENTRY:
            raise SiteError(
                f"{root}: not writable ({error.strerror}); choose another cache folder"
            ) from error
        raise


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise SiteError(f"{folder}: needs {needed:,} bytes of disk and {free:,} are free; {_REMEDY}")
