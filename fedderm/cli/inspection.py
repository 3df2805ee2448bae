"""What ``fedderm sites`` does: lists, audits and examines sites without training anything."""

from pathlib import Path
from typing import get_args

from rich.console import Console as RichConsole
from rich.table import Table

from fedderm import config
from fedderm.cli.console import Console
from fedderm.doctor import Finding, examine
from fedderm.preparation import audit_prepared, load_sites, open_caches
from fedderm.settings import Experiment
from sites.catalogue import Site, SiteData, site_summary

_out = RichConsole(highlight=False, soft_wrap=True)


def list_sources() -> None:
    """Print each source's name and what it holds."""
    table = _table("source", "what it holds")
    for source in get_args(get_args(Site)[0]):
        name = get_args(source.model_fields["source"].annotation)[0]
        table.add_row(name, (source.__doc__ or "").strip().split("\n")[0])
    _out.print(table)
    _out.print("Settings of each: docs/sites.md", markup=False)


def list_sites(path: Path, data_root: Path | None) -> None:
    """Print each site's role, counts and notes."""
    experiment = config.load(path, (), data_root)
    with Console() as console:
        loaded = load_sites(experiment, console)
    table = _table("site", "role", "source", "split", "images", "lesions", "malignant lesions")
    for data in loaded:
        for split, size in site_summary(data)["splits"].items():
            counts = (str(size[key]) for key in ("images", "lesions", "positive_lesions"))
            table.add_row(data.site.name, data.site.role, data.site.source, split, *counts)
    _out.print(table)
    _print_notes(loaded)


def audit_sites(path: Path, data_root: Path | None) -> None:
    """Print what the audit checked; raises AuditRefused with the list where something is shared."""
    experiment = config.load(path, (), data_root)
    with Console() as console:
        loaded = load_sites(experiment, console)
        prepared = audit_prepared(loaded, open_caches(experiment, loaded, console))
    for sentence in prepared.sentences():
        _out.print(sentence, markup=False)


def examine_sites(path: Path, data_root: Path | None, only: str | None) -> bool:
    """Print each site's findings; return whether every site could start."""
    experiment = config.load(path, (), data_root)
    healthy = True
    for site in _chosen(experiment, only):
        _out.print(f"[bold]{site.name}[/bold] ({site.role}, {site.source})")
        with Console() as console:
            findings = examine(site, experiment, console)
        for finding in findings:
            _print_finding(finding)
        healthy = healthy and not any(finding.level == "stops" for finding in findings)
    return healthy


def _chosen(experiment: Experiment, only: str | None) -> list[Site]:
    chosen = [site for site in experiment.sites if only in (None, site.name)]
    if not chosen:
        names = ", ".join(site.name for site in experiment.sites)
        raise ValueError(f"--site {only}: this experiment has the sites {names}")
    return chosen


def _print_finding(finding: Finding) -> None:
    colour = {"fine": "green", "look": "yellow", "stops": "red"}[finding.level]
    _out.print(f"  [{colour}]{finding.level:5}[/{colour}] ", end="")
    _out.print(finding.sentence, markup=False)


def _print_notes(loaded: list[SiteData]) -> None:
    for data in loaded:
        for note in data.notes:
            _out.print(f"{data.site.name}: {note}", markup=False)


def _table(*headings: str) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
