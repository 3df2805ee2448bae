"""A site on another machine: an experiment's config knows its name and role, and nothing else of it."""

from pathlib import Path
from typing import Literal

import pandas as pd

from sites.errors import SiteError
from sites.site import SiteSettings


class ElsewhereSite(SiteSettings):
    """A site at a partner hospital, whose own site file says where its images lie and what leaves.

    Holds: nothing here. An experiment of a real federation lists such sites by name and role; the hospital's
    SuperNode reads its own file (docs/hospital.md). A simulation cannot load it.

    Licence: the hospital's.
    """

    source: Literal["elsewhere"]

    def read(self, data_root: Path | None, work_dir: Path, seed: int) -> pd.DataFrame:
        """Raise SiteError: the images are not on this machine."""
        del data_root, work_dir, seed
        raise SiteError(
            "source: elsewhere stands for a site on another machine; start the run with `fedderm deploy "
            "run`, or, in a hospital's own site file, say where the images are (source: folder)"
        )
