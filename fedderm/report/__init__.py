"""A run's folder, told to people: ``report.html``, its summary and the table the terminal prints.

matplotlib takes most of a second to import, so only ``build_report`` touches it, and only when it is called.
"""

from pathlib import Path

from fedderm.report.sentences import summary_sentences
from fedderm.report.tables import SiteRow, site_table

__all__ = ["SiteRow", "build_report", "site_table", "summary_sentences"]


def build_report(run_dir: Path) -> Path:
    """Return the path of ``run_dir/report.html``, written from the run's folder alone.

    Raises ValueError, and writes nothing, where the run is unfinished or a file in it cannot be read.
    """
    from fedderm.report.build import write_report

    return write_report(run_dir)
