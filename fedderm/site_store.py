"""What a site keeps between rounds, in one folder a site and run: files named by the round they come from.

``<work_dir>/site_state/<run>/<site>/0003.safetensors`` is what the site held after it trained in round 3:
SCAFFOLD's control variate, FedDyn's gradient, FedBN's layers, FedPer's heads. It never leaves the site but
where the method's own mathematics sends it (docs/strategies.md).

The server says with every message which round of the site's counted last. A reply that was refused, came too
late or was lost with the server's round has left a file that is passed over, so that site and server always
agree: a run that was killed and resumed equals one that was not.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fedderm.weights import Arrays, read_arrays, save_arrays

_RUN = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class SiteStore:
    """One site's state in one run."""

    folder: Path
    site: str

    @classmethod
    def of(cls, work_dir: Path, run: str, site: str) -> "SiteStore":
        """Return the store below ``work_dir``.

        Raises ValueError for a run that is no 16 hexadecimal digits: the word comes from the server and names
        a folder here.
        """
        if not _RUN.fullmatch(run):
            raise ValueError(
                f"site {site}: the run's id {run!r} is not 16 hexadecimal digits; update the server"
            )
        return cls(work_dir / "site_state" / run / site, site)

    def read(self, number: int) -> Arrays:
        """Return what was kept after round ``number``; empty for round 0.

        Raises ValueError where the file is missing or damaged.
        """
        if number == 0:
            return {}
        path = self._path(number)
        if not path.is_file():
            raise ValueError(
                f"site {self.site}: what it kept of round {number} is gone ({path}); put the file back, or "
                "start the experiment anew"
            )
        return read_arrays(path)

    def write(self, number: int, arrays: Arrays, counted: int) -> None:
        """Keep ``arrays`` as the state after round ``number``, whole or not at all.

        Files older than ``counted``, the round that the server went on from, are never asked for again.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        save_arrays(self._path(number), arrays)
        for old in self.folder.glob("[0-9]*.safetensors"):
            if int(old.stem) < counted:
                old.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:04d}.safetensors"
