"""What a process that stays prints, kept in files that do not grow without end.

Everything that this process and those it starts write to standard output and error goes on to where it went,
and into ``log/NAME.log`` as well, with the time (UTC) before each line. After 5 MB a new file is begun; four
older ones are kept (``NAME.log.1`` and so on).
"""

import contextlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 5_000_000
_OLDER: Final = 4
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PATIENCE_S: Final = 2.0


@contextlib.contextmanager
def kept_in(path: Path, most_bytes: int = MOST_BYTES) -> Iterator[None]:
    """Keep all that is printed while the context lasts in ``path``, which only its owner may read.

    A disk that is full loses lines of the file, and nothing else.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = _logger(path, most_bytes)
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    readers = [_kept(number, os.dup(original), log) for number, original in enumerate(before, start=1)]
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, original in enumerate(before, start=1):
            os.dup2(original, number)
            os.close(original)
        end = time.monotonic() + _PATIENCE_S
        for reader in readers:  # a process that is still ending may hold the other end
            reader.join(max(0.0, end - time.monotonic()))
        with contextlib.suppress(OSError):  # what it could not write yet, on a full disk
            log.handlers[0].close()


def _logger(path: Path, most_bytes: int) -> logging.Logger:
    log = logging.Logger(f"kept in {path}")  # not one of the tree: nothing else hears of it
    handler = _Private(path, maxBytes=most_bytes, backupCount=_OLDER, encoding="utf-8")
    form = logging.Formatter("%(asctime)sZ %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    handler.setFormatter(form)
    log.addHandler(handler)
    return log


class _Private(RotatingFileHandler):
    """A handler whose files only their owner may read."""

    def _open(self) -> TextIOWrapper:
        number = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(number, "a", encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Let the line go; to say so would write into itself."""


def _kept(number: int, original: int, log: logging.Logger) -> threading.Thread:
    """Send what is written to a file descriptor through a pipe; return the thread that reads it."""
    read, write = os.pipe()
    os.dup2(write, number)  # children inherit it
    os.close(write)

    def copy() -> None:
        """Pass each line on, and keep it in the log without colours."""
        with os.fdopen(read, "rb") as lines, os.fdopen(original, "wb", buffering=0) as there:
            for line in lines:
                with contextlib.suppress(OSError):  # a terminal that was closed
                    there.write(line)
                log.info(_COLOUR.sub("", line.decode("utf-8", "replace").rstrip("\r\n")))

    reader = threading.Thread(target=copy, name=f"log {number}", daemon=True)
    reader.start()
    return reader
