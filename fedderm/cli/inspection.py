"""What ``fedderm sites list`` and ``audit`` do: count sites and compare them, without training anything."""

from pathlib import Path
from typing import get_args

from fedderm import config
from fedderm.cli.console import Console
from fedderm.cli.terminal import output, plain_table
from fedderm.preparation import audit_prepared, load_sites, open_caches
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
