"""A run's folder, told to people: ``report.html``, its summary and the table the terminal prints.

matplotlib takes most of a second to import, so only ``build_report`` touches it, and only when it is called.
"""

from pathlib import Path

from fedderm.report.sentences import summary_sentences
from fedderm.report.tables import SiteRow, site_table

__all__ = ["SiteRow", "build_report", "site_table", "summary_sentences"]


def build_report(run_dir: Path) -> Path:
    """Return the path of ``run_dir/report.html``, written from the run's folder alone, as are ``papers/``.

    Raises ValueError, and writes nothing, where the run is unfinished or a file in it cannot be read.
    """
    from fedderm.papers import as_html, papers_of, write_papers
    from fedderm.report.build import write_report
    from fedderm.report.folder import read_run

    run = read_run(run_dir)
    write_papers(run)
    return write_report(run, [(title, as_html(markdown)) for title, markdown in papers_of(run)])
