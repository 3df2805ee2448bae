"""``fedderm deploy``: a federation of real hospitals, from the coordinator's and from a hospital's side."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Join real hospitals into a federation: docs/coordinator.md, docs/hospital.md.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.", show_default=False)]
KitFolder = Annotated[Path, typer.Argument(help="The kit's folder at the hospital.", show_default=False)]
SiteName = Annotated[str, typer.Argument(help="The hospital's name in this federation.", show_default=False)]


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="A folder to be made.", show_default=False)],
    name: Annotated[str, typer.Option(help="What the federation is called.", show_default=False)],
    host: Annotated[
        list[str],
        typer.Option(
            help="A name or IP address of the server, as hospitals reach it; repeat it for more.",
            show_default=False,
        ),
    ],
    port: Annotated[int, typer.Option(help="The port that hospitals connect to.", min=1, max=65535)] = 9092,
    control_port: Annotated[
        int,
        typer.Option(
            help="A port for the coordinator's own commands, on this machine only.", min=1, max=65535
        ),
    ] = 9093,
) -> None:
    """Coordinator: make a federation, with its own certificate authority and a server certificate."""
    from fedderm.cli import coordinating

    coordinating.init(folder, name, tuple(host), port, control_port)


@app.command("kit")
def kit(folder: Folder, site: SiteName) -> None:
    """Coordinator: make the join kit for one hospital, a zip file without any secret."""
    from fedderm.cli import coordinating

    coordinating.kit(folder, site)


@app.command("join")
def join(
    folder: KitFolder,
    site: Annotated[Path, typer.Option(help="The hospital's site file (site.yaml).", show_default=False)],
) -> None:
    """Hospital: make this node's key, and the join file to send to the coordinator."""
    from fedderm.cli import joining

    joining.join(folder, site)


@app.command("register")
def register(
    folder: Folder,
    join_file: Annotated[Path, typer.Argument(help="What a hospital sent.", show_default=False)],
    fingerprint: Annotated[
        str | None,
        typer.Option(help="What the hospital read out on the telephone; asked for without it."),
    ] = None,
) -> None:
    """Coordinator: register a hospital's key, after a call that its fingerprint is the hospital's."""
    from fedderm.cli import coordinating

    coordinating.register(folder, join_file, fingerprint)


@app.command("superlink")
def superlink(folder: Folder) -> None:
    """Coordinator: serve registered hospitals until Ctrl-C."""
    from fedderm.cli import coordinating

    coordinating.superlink(folder)


@app.command("supernode")
def supernode(folder: KitFolder) -> None:
    """Hospital: take part until Ctrl-C."""
    from fedderm.cli import joining

    joining.supernode(folder)


@app.command("run")
def run(
    folder: Folder,
    config: Annotated[
        Path | None,
        typer.Argument(help="The experiment's YAML file; not needed with --resume.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a setting, such as rounds=3.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run's folder.")] = None,
) -> None:
    """Coordinator: run an experiment over registered hospitals, with a report at the end."""
    from fedderm.cli import coordinating

    coordinating.run(folder, config, overrides or [], resume)


@app.command("status")
def status(
    folder: Annotated[
        Path, typer.Argument(help="The coordinator's folder, or a hospital's kit.", show_default=False)
    ],
) -> None:
    """Show sites, what ends when and the latest runs; at a hospital, if its node runs and is admitted."""
    from fedderm.cli import coordinating, joining

    if not (folder / "kit.json").is_file():
        coordinating.status(folder)
    elif not joining.status(folder):
        raise typer.Exit(2)


@app.command("rotate")
def rotate(
    folder: Annotated[
        Path, typer.Argument(help="The coordinator's folder, or a hospital's kit.", show_default=False)
    ],
) -> None:
    """Make a new key: of the server, in a coordinator's folder; of the node, in a hospital's kit."""
    from fedderm.cli import coordinating, joining

    if (folder / "kit.json").is_file():
        joining.rotate(folder)
    else:
        coordinating.rotate(folder)


@app.command("revoke")
def revoke(
    folder: Folder,
    site: SiteName,
    reason: Annotated[str, typer.Option(help="Told to the hospital's node when it is turned away.")] = "",
) -> None:
    """Coordinator: turn a hospital's key away, from now on and where it is connected."""
    from fedderm.cli import coordinating

    coordinating.revoke(folder, site, reason)
