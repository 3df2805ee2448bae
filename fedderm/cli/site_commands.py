"""``fedderm sites list | audit | doctor``."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at the sites of an experiment before anything is trained.", no_args_is_help=True)

Config = Annotated[Path, typer.Argument(help="The experiment's YAML file.", show_default=False)]
DataRoot = Annotated[Path | None, typer.Option(help="Where the sources' folders lie (replaces data_root).")]


@app.command("list")
def list_sites(
    config: Annotated[
        Path | None, typer.Argument(help="An experiment's YAML file; without it, the sources are listed.")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """List an experiment's sites with their counts, or the sources that a site can have."""
    from fedderm.cli import inspection

    if config is None:
        inspection.list_sources()
    else:
        inspection.list_sites(config, data_root)


@app.command("audit")
def audit(config: Config, data_root: DataRoot = None) -> None:
    """Prove that no lesion and no image is in two splits or at two sites; exit code 2 where one is."""
    from fedderm.cli import inspection

    inspection.audit_sites(config, data_root)


@app.command("doctor")
def doctor(
    config: Config,
    data_root: DataRoot = None,
    site: Annotated[str | None, typer.Option(help="Look at this site only.")] = None,
) -> None:
    """Check each site's table, images and counts; exit code 2 where a site could not start."""
    from fedderm.cli import inspection

    if not inspection.examine_sites(config, data_root, site):
        raise typer.Exit(2)
