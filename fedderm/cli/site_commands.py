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
    config: Annotated[
        Path, typer.Argument(help="A hospital's site file, or an experiment's YAML file.", show_default=False)
    ],
    data_root: DataRoot = None,
    site: Annotated[str | None, typer.Option(help="Look at this site only.")] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of the coordinator's server: try to reach it.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="The coordinator's CA certificate (PEM), from the join kit.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for a script.")] = False,
) -> None:
    """Check table, images, counts, machine and the way to the coordinator, before anything joins.

    Exit code 0: it could start, whatever there is to look at; 2: something must be mended first.
    """
    from fedderm.cli.examination import examine_sites
    from fedderm.doctor import Coordinator

    if ca is not None and coordinator is None:
        raise ValueError("--ca goes with --coordinator HOST:PORT; give both")
    server = None if coordinator is None else Coordinator.parse(coordinator, ca)
    if not examine_sites(config, data_root, site, server, as_json):
        raise typer.Exit(2)
