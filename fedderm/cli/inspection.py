"""What ``fedderm sites`` does: lists, audits and examines sites without training anything."""

from pathlib import Path
from typing import get_args

from rich.text import Text

from fedderm import config
from fedderm.cli.console import Console
from fedderm.cli.terminal import output, plain_table
from fedderm.doctor import Finding, examine
from fedderm.preparation import audit_prepared, load_sites, open_caches
from fedderm.settings import Experiment
from sites.catalogue import Site, site_summary


def list_sources() -> None:
    """Print each source's name and what it holds."""
    table = plain_table("source", "what it holds", folding="what it holds")
    for source in get_args(get_args(Site)[0]):
        name = get_args(source.model_fields["source"].annotation)[0]
        first_sentence = " ".join((source.__doc__ or "").split()).split(". ")[0].rstrip(".")
        table.add_row(name, first_sentence)
    output().print(table)
    output().print("Settings of each: docs/sites.md")


def list_sites(path: Path, data_root: Path | None) -> None:
    """Print each site's role, counts and notes."""
    experiment = config.load(path, (), data_root)
    with Console() as console:
        loaded = load_sites(experiment, console)
    counts = ("images", "lesions", "malignant")
    table = plain_table("site", "role", "source", "split", *counts, folding="site", numbers=counts)
    for data in loaded:
        for split, size in site_summary(data)["splits"].items():
            numbers = (f"{size[key]:,}" for key in ("images", "lesions", "positive_lesions"))
            table.add_row(data.site.name, data.site.role, data.site.source, split, *numbers)
        table.add_section()
    out = output()
    out.print(table)
    out.print("malignant: lesions")
    for data in loaded:
        for note in data.notes:
            out.print(f"{data.site.name}: {note}")


def audit_sites(path: Path, data_root: Path | None) -> None:
    """Print what the audit checked; raises AuditRefused with the list where something is shared."""
    experiment = config.load(path, (), data_root)
    with Console() as console:
        loaded = load_sites(experiment, console)
        prepared = audit_prepared(loaded, open_caches(experiment, loaded, console))
    for sentence in prepared.sentences():
        output().print(sentence)


def examine_sites(path: Path, data_root: Path | None, only: str | None) -> bool:
    """Print each site's findings; return whether every site could start."""
    experiment = config.load(path, (), data_root)
    healthy = True
    for site in _chosen(experiment, only):
        with Console() as console:
            findings = examine(site, experiment, console)
        output().print(f"{site.name} ({site.role}, {site.source})", style="bold")
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
    output().print(Text("  ").append(f"{finding.level:5}", style=colour), finding.sentence)
