"""The papers themselves: templates filled from a run, as Markdown."""

from collections import Counter
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedderm.papers.data import cards_of, data_facts
from fedderm.papers.markdown import Markdown, escaped, missing, told
from fedderm.papers.method import method_facts
from fedderm.papers.results import (
    discrimination_lines,
    estimate,
    performance_lines,
    result_facts,
    subgroup_lines,
)
from fedderm.report.folder import RunFolder
from fedderm.report.formats import count, plain
from fedderm.report.sentences import overview_of
from fedderm.whole_file import write_whole

FOLDER: Final = "papers"

PAPERS: Final = {
    "model_card": "Model card",
    "tripod_ai": "TRIPOD+AI checklist",
    "claim": "CLAIM checklist",
}
"""Name of the template and of the file, and the paper's title."""

SOURCES: Final = {
    "tripod_ai": "Items after TRIPOD+AI: Collins et al., BMJ 2024;385:e078378 (CC BY 4.0), in our own short "
    "words; the published checklist and its explanation are what counts.",
    "claim": "Items after CLAIM, 2024 update: Tejani et al., Radiology: Artificial Intelligence 6(4), 2024, "
    "e240300 (CC BY 4.0), in our own short words; the published checklist and its explanation are what "
    "counts.",
}


def write_papers(run: RunFolder) -> list[Path]:
    """Return the paths of the papers in the run's folder, each written whole or not at all.

    Raises OSError where the disk refuses.
    """
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    return [_write(folder / f"{name}.md", paper(run, name)) for name in PAPERS]


def papers_of(run: RunFolder) -> list[tuple[str, str]]:
    """Return (title, Markdown) of each paper, the model card first."""
    return [(title, paper(run, name)) for name, title in PAPERS.items()]


def paper(run: RunFolder, name: str) -> str:
    """Return one of PAPERS as Markdown. What the run does not know is marked as missing."""
    content = _content(run)
    if name not in SOURCES:
        return _environment().get_template(f"{name}.md").render(content)
    checklist = Checklist()
    environment = _environment()
    environment.globals.update(row=checklist.row, head=checklist.head)
    rows = Markdown(environment.get_template(f"{name}.md").render(content))
    frame = {"title": PAPERS[name], "source": SOURCES[name], "rows": rows, "statuses": checklist.statuses}
    return environment.get_template("checklist.md").render(content | frame)


class Checklist:
    """The rows of a checklist, counted by status while they are written."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()

    def head(self) -> Markdown:
        """Return the head of a table of items."""
        return Markdown("| item | topic | asked | status | from this run |\n|---|---|---|---|---|")

    def row(self, number: str, topic: str, asked: str, found: str | list[str], wanted: str = "") -> Markdown:
        """Return an item's row: filled, partly (something is ``wanted`` beside what was found) or missing."""
        text = told([found] if isinstance(found, str) else found)
        status = "missing" if not text else "partly" if wanted else "filled"
        self.statuses[status] += 1
        parts = [escaped(text)] if text else []
        if status != "filled":
            parts.append(missing(wanted or "the run did not record it"))
        cells = [escaped(number), escaped(topic), escaped(asked), Markdown(status), Markdown(" ".join(parts))]
        return Markdown(f"| {' | '.join(cells)} |")


def _environment() -> Environment:
    # finalize: whatever an expression gives is escaped unless it is Markdown already.
    environment = Environment(
        loader=PackageLoader("fedderm.papers", "."),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=escaped,
    )
    environment.filters.update(count=count, plain=plain, estimate=estimate)
    environment.globals.update(missing=missing, fact=_fact)
    return environment


def _fact(found: str, wanted: str) -> Markdown:
    """Return what was found, or the mark for what is missing."""
    return escaped(found) if found else missing(wanted)


def _content(run: RunFolder) -> dict[str, Any]:
    return {
        "run": run,
        "overview": overview_of(run),
        "f": {**data_facts(run), **method_facts(run), **result_facts(run)},
        "cards": list(cards_of(run).values()),
        "discrimination": discrimination_lines(run),
        "lines": performance_lines(run),
        "subgroups": subgroup_lines(run),
        "sites": list(run.sites.values()),
    }


def _write(path: Path, text: str) -> Path:
    write_whole(path, text)
    return path
