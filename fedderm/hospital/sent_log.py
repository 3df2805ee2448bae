"""What left a hospital, and what it refused: an append-only log of JSON lines, chained by hashes.

A line holds the SHA-256 of the line before it and of itself, so that a line that is edited, removed or moved
breaks the chain. ``sent.head`` says how many lines there are and what the last one's hash is: lines cut off
the end are missed there. Who may write both files can write a whole other log; only a hash that was noted
elsewhere tells that (``check`` with ``noted``).

A line is on the disk before the reply that it tells of is returned, and a log that is not whole takes no more
lines, so nothing leaves without one.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

BEGINNING: Final = "0" * 64
"""What the first line names as the hash of the line before it."""

_LOCK_SECONDS: Final = 60.0
_LINES, _HEAD, _LOCK = "sent.jsonl", "sent.head", "sent.lock"


class LogBroken(ValueError):  # noqa: N818 - says what it is
    """The log is not the one that was written here: where, and what is wrong."""


@dataclass(frozen=True)
class Head:
    """Where the log ends."""

    entries: int
    hash: str
    size: int
    """Bytes of the log, up to the end of its last line."""
    touched: int = 0
    """The file's time after that line, in ns: where it has another, somebody else has written."""


@dataclass(frozen=True)
class Check:
    """A log that is whole."""

    entries: int
    hash: str
    """Of the last line: noted elsewhere, it tells a log that was written anew."""
    interrupted: bool
    """Whether the last entry was being written when the machine stopped: its reply may not have left."""


@dataclass(frozen=True)
class SentLog:
    """The log in one folder; several processes may add to it."""

    folder: Path

    @property
    def path(self) -> Path:
        """Return the file of JSON lines."""
        return self.folder / _LINES

    def add(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entry as it was appended, numbered, timed and chained; it is on the disk by then.

        Raises OSError where the disk refuses, and LogBroken where the log does not end as its head says, or
        was touched since and is not whole.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(self.folder / _LOCK, timeout=_LOCK_SECONDS):
            head = self._end()
            time = datetime.now(UTC).isoformat(timespec="seconds")
            body = {"entry": head.entries + 1, "time": time, **entry, "previous": head.hash}
            line = {**body, "hash": hash_of(body)}
            text = (json.dumps(line) + "\n").encode()
            self._append(text, head.size, Head(head.entries + 1, line["hash"], head.size + len(text)))
        return line

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries in order; raises LogBroken for a line that is no entry."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    return  # being written, or left by a machine that stopped: no reply went with it
                yield self._entry(line, number)

    def check(self, noted: str | None = None) -> Check:
        """Return where the log ends, if every line follows from the one before.

        Raises LogBroken with the first line that does not, for lines missing at the end, and where the hash
        ``noted`` elsewhere is none of the log's.
        """
        head, found, before = self._head(), 0, BEGINNING
        hashes = set()
        for entry in self.entries():
            found += 1
            if entry.get("entry") != found:
                raise self._broken(found, f"it is numbered {entry.get('entry')}: a line is missing or moved")
            if entry.get("previous") != before:
                raise self._broken(found, "it does not follow the line before: one was changed or moved")
            if entry.get("hash") != hash_of(entry):
                raise self._broken(found, "it was changed after it was written")
            before = entry["hash"]
            hashes.add(before)
            if found == head.entries and before != head.hash:
                raise self._broken(found, f"{_HEAD} has another hash of it: the log was written anew")
        if found < head.entries:
            raise LogBroken(
                f"{self.path}: ends with line {found}, but {head.entries} were written: "
                f"{head.entries - found} at the end are missing"
            )
        beyond = found - self._head().entries  # read again: a node may have added a line meanwhile
        if beyond > 1:
            raise self._broken(found - beyond + 2, f"{_HEAD} knows {found - beyond} lines only")
        if noted is not None and noted not in hashes:
            raise LogBroken(
                f"{self.path}: no line has the hash {noted} that was noted: it is another log, or was "
                "written anew from there on"
            )
        return Check(found, before, beyond > 0)

    def _end(self) -> Head:
        """Return where to go on; raises LogBroken where the file does not end as its head says, or was
        touched since and is not whole.

        A line without its end, or one line more than the head knows, is what a machine leaves that stopped
        while it wrote: the first is overwritten, the second counted.
        """
        head = self._head()
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < head.size:
            raise LogBroken(
                f"{self.path}: is {size} bytes long, but {head.size} were written; put the file back, or "
                f"move it and {_HEAD} away to begin a new log"
            )
        if not size or self.path.stat().st_mtime_ns == head.touched:
            return head
        found = self.check()  # reads every line: somebody, or a machine that stopped, has touched the file
        if not found.interrupted:
            return head
        with self.path.open("rb") as lines:
            lines.seek(head.size)
            return Head(found.entries, found.hash, head.size + len(lines.readline()))

    def _append(self, text: bytes, at: int, head: Head) -> None:
        """Write a line and the new head, or neither; raises OSError where the disk refuses."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, at)
            os.lseek(descriptor, at, os.SEEK_SET)
            _write(descriptor, text)
        except OSError:
            os.ftruncate(descriptor, at)
            raise
        finally:
            os.close(descriptor)
        try:  # closed before: over a network a file has its time only then
            self._write_head(replace(head, touched=self.path.stat().st_mtime_ns))
        except OSError:
            os.truncate(self.path, at)
            raise

    def _head(self) -> Head:
        path = self.folder / _HEAD
        if not path.is_file():
            return Head(0, BEGINNING, 0)
        try:
            return Head(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise LogBroken(f"{path}: is damaged ({error}); put it back from a copy") from error

    def _write_head(self, head: Head) -> None:
        temporary = self.folder / f".{_HEAD}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write(descriptor, f"{json.dumps(vars(head))}\n".encode())
        finally:
            os.close(descriptor)
        temporary.replace(self.folder / _HEAD)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the names of both files are on the disk, too
        finally:
            os.close(folder)

    def _entry(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError as error:
            raise self._broken(number, "it is no JSON") from error
        if not isinstance(found, dict):
            raise self._broken(number, "it is no entry")
        return found

    def _broken(self, number: int, what: str) -> LogBroken:
        return LogBroken(f"{self.path}: line {number} is broken: {what}")


def hash_of(entry: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an entry but for its own hash: 64 hexadecimal digits, of its canonical JSON."""
    body = {key: value for key, value in entry.items() if key != "hash"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _write(descriptor: int, text: bytes) -> None:
    """Write all of it, to the disk itself."""
    written = 0
    while written < len(text):
        written += os.write(descriptor, text[written:])
    os.fsync(descriptor)
