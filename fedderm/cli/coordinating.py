"""What ``fedderm deploy`` does at the coordinator."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import typer

from fedderm import config
from fedderm.cli.console import Console
from fedderm.cli.stopping import stop_is_ctrl_c
from fedderm.cli.terminal import output, plain_table
from fedderm.deploy.authority import read_certificate
from fedderm.deploy.coordinator import Coordinator
from fedderm.deploy.joining import Statement, read_join
from fedderm.deploy.kit import make_kit
from fedderm.deploy.node_key import public_key_of
from fedderm.deploy.register import changed_register
from fedderm.deploy.units import superlink_unit
from fedderm.deploy.validity import day
from fedderm.runs import RunFolder


def init(folder: Path, name: str, hosts: tuple[str, ...], port: int, control_port: int) -> None:
    """Make a federation and say what is secret and what goes where."""
    made = Coordinator.create(folder, name, hosts, port, control_port, datetime.now(UTC))
    unit = made.path / "fedderm-superlink.service"
    unit.write_text(superlink_unit(name, made.path), encoding="utf-8")
    table = plain_table("file", "what it is", "who may have it", "until", folding="what it is")
    authority, server = read_certificate(made.authority_file), read_certificate(made.server_file)
    ends = day(authority.not_valid_after_utc), day(server.not_valid_after_utc)
    for path, what, who, until in (
        (made.authority_key, "signs server certificates", "SECRET: you, and a backup offline", ends[0]),
        (made.authority_file, "vouches for the server", "in every kit", ends[0]),
        (made.server_key, "the server's key", "SECRET: this machine", ends[1]),
        (made.server_file, f"the server as {', '.join(hosts)}", "anybody", ends[1]),
        (made.path / "control.token", "lets these commands in", "SECRET: this machine", ""),
        (made.register, "who has joined", "you, and a backup", ""),
    ):
        table.add_row(str(path.relative_to(made.path)), what, who, until)
    output().print(table)
    _say(f"fingerprint of the authority, for the telephone: {made.settings.authority}")
    _say(f"open port {port} of {hosts[0]} to the hospitals; leave {control_port} closed")
    _say(f"next: fedderm deploy kit {made.path} NAME_OF_A_HOSPITAL")


def kit(folder: Path, site: str) -> None:
    """Make a kit and say where it goes."""
    coordinator = Coordinator.open(folder)
    packed = make_kit(coordinator, site, datetime.now(UTC))
    _say(f"to send to {site}: {packed} (nothing in it is secret)")
    _say(f"when they call to compare, the authority's fingerprint is {coordinator.settings.authority}")


def register(folder: Path, join_file: Path, told: str | None) -> None:
    """Register a hospital's key, in the register and with a SuperLink that is running."""
    coordinator, now = Coordinator.open(folder), datetime.now(UTC)
    authority = coordinator.settings.authority
    statement = read_join(join_file, authority, now)
    with changed_register(coordinator.register) as known:
        if statement.replaces is None:
            _require_call(statement, told)
        else:
            old = known.current(statement.site)
            if old is not None:  # otherwise the register says what is amiss
                read_join(join_file, authority, now, public_key_of(old.public_key))
        key = known.admit(statement, now)
    _say(f"{key.site} is registered until {day(key.expires)}: {key.fingerprint}")
    _apply(coordinator, "is let in with the next `fedderm deploy superlink`")


def superlink(folder: Path) -> None:
    """Serve until Ctrl-C."""
    coordinator = Coordinator.open(folder)
    from fedderm.deploy.log_file import kept_in
    from fedderm.deploy.superlink import serve_superlink

    with kept_in(coordinator.log):
        serve_superlink(coordinator, _say)


def run(folder: Path, path: Path | None, overrides: list[str], resume: Path | None) -> None:
    """Run an experiment over registered hospitals; print the sites' table and where the report lies."""
    coordinator = Coordinator.open(folder)
    run_folder = _run_folder(coordinator, path, overrides, resume)
    console = Console()
    console.show(f"run folder: {run_folder.path}")
    if not run_folder.state()["finished"]:
        from fedderm.deploy.running import follow_run

        with stop_is_ctrl_c():
            follow_run(coordinator, run_folder, lambda text: typer.echo(text, nl=False))
    console.site_table(run_folder.path)
    console.show(f"report: {run_folder.path / 'report.html'}")


def status(folder: Path) -> None:
    """Print the sites and the latest runs."""
    from fedderm.deploy.status import status_of

    found = status_of(Coordinator.open(folder), datetime.now(UTC))
    _say(found.server)
    table = plain_table(
        "site", "state", "since (UTC)", "key until", "last answer", "fingerprint", folding="last answer"
    )
    for one in found.sites:
        table.add_row(one.site, one.state, one.since, one.until, one.last, one.fingerprint)
    output().print(table if found.sites else "no site has joined, and no kit was made")
    if found.runs:
        runs = plain_table("run", "state", "begun (UTC)", "details", folding="details")
        for run in found.runs:
            runs.add_row(str(run.run_id), run.status, run.begun[:16].replace("T", " "), run.details)
        output().print(runs)


def rotate(folder: Path) -> None:
    """Give the server a new key and certificate."""
    coordinator = Coordinator.open(folder)
    until = coordinator.renew_server(datetime.now(UTC))
    _say(f"the server has a new key and certificate until {day(until)}; start the SuperLink anew to use them")
    _say("hospitals notice nothing: the same authority vouches for it")


def revoke(folder: Path, site: str, reason: str) -> None:
    """Turn a site's key away."""
    coordinator = Coordinator.open(folder)
    with changed_register(coordinator.register) as known:
        done = known.revoke(site, datetime.now(UTC), reason)
    for sentence in done:
        _say(sentence)
    _apply(coordinator, "is turned away")


def _apply(coordinator: Coordinator, otherwise: str) -> None:
    """Tell a running SuperLink of the register; one that is not running reads it when it starts."""
    from fedderm.deploy.control import NotRunning, control

    try:
        with control(coordinator) as calls:
            calls.apply_register(coordinator)
    except NotRunning:
        _say(f"the SuperLink is not running: the key {otherwise}")


def _require_call(statement: Statement, told: str | None) -> None:
    """Return once a person has said that the fingerprint is the hospital's; raises ValueError otherwise."""
    if told is None:
        if not sys.stdin.isatty():
            raise ValueError(
                f"call {statement.site}, have them read out the fingerprint that `fedderm deploy join` "
                "printed, and give it: --fingerprint SHA256:..."
            )
        told = typer.prompt(f"call {statement.site}; the fingerprint that they read out").strip()
    if told.removeprefix("SHA256:") != statement.fingerprint.removeprefix("SHA256:"):
        raise ValueError(
            f"the fingerprint of this join file is {statement.fingerprint}, not {told}; it is not from the "
            "hospital you called, or was misread: nothing is registered"
        )


def _run_folder(
    coordinator: Coordinator, path: Path | None, overrides: list[str], resume: Path | None
) -> RunFolder:
    from fedderm.combinations import check_choices
    from fedderm.deploy.running import require_joined, require_running

    if resume is not None:
        if path is not None or overrides:
            raise ValueError(
                "--resume goes on with the run's own config; leave out the config and --set, or start anew"
            )
        folder = RunFolder.open(resume)
        require_joined(coordinator, folder.experiment)
        return folder
    if path is None:
        raise ValueError("give a config, or --resume with a run's folder")
    experiment = config.load(path, overrides)
    check_choices(experiment)
    if experiment.baseline == "pooled":
        raise ValueError("baseline: pooled needs all images in one place; run it with `fedderm run`")
    require_joined(coordinator, experiment)
    require_running(coordinator)
    described = [site.name for site in experiment.sites if site.source != "elsewhere"]
    if described:
        _say(
            f"note: what the config says of the images and settings of {', '.join(described)} is not used: "
            "each hospital's own site file decides (here: source: elsewhere)"
        )
    return RunFolder.create(experiment.alone())


def _say(line: str) -> None:
    output().print(line, soft_wrap=True)
