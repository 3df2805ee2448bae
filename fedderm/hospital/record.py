"""Where a hospital's node keeps what it must not lose: one folder beside the site file."""

import getpass
from dataclasses import dataclass
from pathlib import Path

from fedderm.hospital.memory import MemoryFile, Request, now
from fedderm.hospital.sent_log import SentLog


@dataclass(frozen=True)
class Record:
    """``site.yaml`` has ``site.record/``: the log of what left, approvals, and predictions."""

    folder: Path

    @classmethod
    def of(cls, site_file: Path) -> "Record":
        """Return the record of the hospital whose site file this is."""
        path = site_file.resolve()
        return cls(path.with_name(f"{path.stem}.record"))

    @property
    def log(self) -> SentLog:
        """Return the log of what left."""
        return SentLog(self.folder)

    @property
    def memory(self) -> MemoryFile:
        """Return approvals, and the answers of the last day."""
        return MemoryFile(self.folder / "memory.json")

    @property
    def predictions(self) -> Path:
        """Return the folder of the models' predictions, which never leave."""
        return self.folder / "predictions"

    def approve(self, name: str) -> tuple[str, Request]:
        """Let the run whose digest begins with ``name`` begin, or begin once more; return digest and request.

        Raises ValueError where no request, or more than one, is called so.
        """
        with self.memory.change() as memory:
            digest = memory.called(name)
            request = memory.approve(digest, getpass.getuser(), now())
            self._log("approved", digest, request)
        return digest, request

    def withdraw(self, name: str) -> tuple[str, Request]:
        """Stop what was approved under ``name``, also where it is under way; return digest and request."""
        with self.memory.change() as memory:
            digest = memory.called(name)
            request = memory.withdraw(digest)
            self._log("withdrawn", digest, request)
        return digest, request

    def _log(self, what: str, digest: str, request: Request) -> None:
        entry = {"what": what, "request": digest, "experiment": request.experiment, "by": getpass.getuser()}
        self.log.add(entry)
