"""What ``fedderm sites doctor`` does: one page of findings, or the same as JSON for a script."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.text import Text

from fedderm import config
from fedderm.cli.console import Console
from fedderm.cli.terminal import errors, output
from fedderm.doctor import (
    Coordinator,
    Examination,
    Finding,
    examine_connection,
    examine_machine,
    examine_site,
    in_order_of_weight,
)
from fedderm.site_file import is_site_file, read_site_file
from sites.catalogue import Site
from sites.words import counted

_COLOURS = {"stops": "red", "look": "yellow", "fine": "green"}


@dataclass(frozen=True)
class _Section:
    site: Site | None
    """None: the machine, and the way from it to the coordinator."""
    findings: list[Finding]

    @property
    def title(self) -> str:
        site = self.site
        return "this machine" if site is None else f"{site.name} ({site.role}, {site.source})"


def examine_sites(
    path: Path, data_root: Path | None, only: str | None, coordinator: Coordinator | None, as_json: bool
) -> bool:
    """Print the findings on an experiment's sites, or on a hospital's own; return whether all could start.

    What must be mended comes first. Raises ValueError for a file that is neither, and an unknown site.
    """
    sites, examination = _subjects(path, data_root, only)
    with Console(errors() if as_json else output()) as console:
        sections = [_Section(site, examine_site(site, examination, console.progress)) for site in sites]
        machine = list(examine_machine(examination))
        if coordinator is not None:
            console.progress(f"connect to {coordinator}", 0, 1)
            machine.append(examine_connection(coordinator))
    sections.append(_Section(None, machine))
    could_start = not any(finding.level == "stops" for section in sections for finding in section.findings)
    if as_json:
        _print_json(sections, could_start)
    else:
        _print_page(sections)
    return could_start


def _subjects(path: Path, data_root: Path | None, only: str | None) -> tuple[list[Site], Examination]:
    if is_site_file(path):
        chosen, examination = [read_site_file(path)], Examination.of_a_hospital(path, data_root)
    else:
        experiment = config.load(path, (), data_root)
        chosen, examination = list(experiment.sites), Examination.of(experiment)
    names = ", ".join(site.name for site in chosen)
    chosen = [site for site in chosen if only in (None, site.name)]
    if not chosen:
        raise ValueError(f"--site {only}: this experiment has the sites {names}")
    return chosen, examination


def _print_page(sections: list[_Section]) -> None:
    """Print the sections; a hospital's one site and its machine are one list, by weight."""
    if len(sections) == 2:
        site, machine = sections
        sections = [_Section(site.site, [*site.findings, *machine.findings])]
    out = output()
    for section in sections:
        out.print(section.title, style="bold")
        for finding in in_order_of_weight(section.findings):
            level = Text("  ").append(f"{finding.level:5}", style=_COLOURS[finding.level])
            out.print(level, finding.sentence)
    levels = [finding.level for section in sections for finding in section.findings]
    stops, looks = levels.count("stops"), levels.count("look")
    verdict = f"{counted(stops, 'thing')} must be mended first" if stops else "nothing must be mended"
    out.print(f"{verdict}; {counted(looks, 'thing')} to look at")


def _print_json(sections: list[_Section], could_start: bool) -> None:
    findings = [
        {"site": section.site.name if section.site else None, **asdict(finding)}
        for section in sections
        for finding in in_order_of_weight(section.findings)
    ]
    print(json.dumps({"could_start": could_start, "findings": findings}, indent=2, ensure_ascii=False))
