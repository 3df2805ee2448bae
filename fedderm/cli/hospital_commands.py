"""``fedderm site policy | pending | approve | withdraw | log``: for the person who answers for a hospital."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Say what leaves your hospital, and see what left.", no_args_is_help=True)

SiteFile = Annotated[Path, typer.Argument(help="Your site file (YAML).", show_default=False)]
Request = Annotated[str, typer.Argument(help="The run's id, as `pending` prints it.", show_default=False)]


@app.command("policy")
def policy(site: SiteFile) -> None:
    """Say in words what your site file lets out."""
    from fedderm.cli import hospital

    hospital.tell_policy(site)


@app.command("pending")
def pending(site: SiteFile) -> None:
    """List the runs that wait for your yes, and what each asks for."""
    from fedderm.cli import hospital

    hospital.list_pending(site)


@app.command("approve")
def approve(site: SiteFile, run: Request) -> None:
    """Say yes to a run: it may begin, or go on, once."""
    from fedderm.cli import hospital

    hospital.approve(site, run)


@app.command("withdraw")
def withdraw(site: SiteFile, run: Request) -> None:
    """Take your yes to a run back, also while it is under way."""
    from fedderm.cli import hospital

    hospital.withdraw(site, run)


@app.command("log")
def log(
    site: SiteFile,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the chain of hashes only; exit code 2 where it is broken.")
    ] = False,
    noted: Annotated[
        str | None, typer.Option(help="A last line's hash that you noted earlier: is it still in the log?")
    ] = None,
) -> None:
    """Show what left your hospital by day and by run, and what was refused; the log is checked first."""
    from fedderm.cli import hospital

    hospital.check_log(site, noted)
    if not verify:
        hospital.show_log(site)
