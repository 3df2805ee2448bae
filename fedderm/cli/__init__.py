"""The ``fedderm`` command. Each command imports what it needs when it runs: ``--help`` answers at once."""

import sys

import typer
from typer import core

from fedderm.cli import commands, deploy, hospital_commands, pattern_commands, site_commands
from fedderm.cli.errors import exit_code_of

core.HAS_RICH = False  # with rich at hand typer writes "\[required]", even where it is told not to use it
app = typer.Typer(
    name="fedderm",
    help="Federated learning across clinical sites for dermoscopic skin-cancer images. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    suggest_commands=False,  # click does, and both would be printed
    rich_markup_mode=None,  # rich doubles the time that --help takes
)
app.command("run")(commands.run)
app.command("compare")(commands.compare)
app.command("report")(commands.report)
app.command("evaluate")(commands.evaluate)
app.command("predict")(commands.predict)
app.command("explain")(commands.explain)
app.command("export")(commands.export)
app.command("ensemble")(commands.ensemble)
app.add_typer(site_commands.app, name="sites")
app.add_typer(hospital_commands.app, name="site")
app.add_typer(pattern_commands.app, name="patterns")
app.add_typer(deploy.app, name="deploy")


def main() -> None:
    """Run the command line; a person's mistake ends in one sentence and exit code 2, never in a traceback."""
    try:
        app()
    except Exception as error:  # the outermost door: sorted into mistakes and faults there
        sys.exit(exit_code_of(error))
