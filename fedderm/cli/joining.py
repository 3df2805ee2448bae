"""What ``fedderm deploy`` does at a hospital."""

from datetime import UTC, datetime
from pathlib import Path

from fedderm.cli.stopping import stop_is_ctrl_c
from fedderm.cli.terminal import output
from fedderm.deploy.joining import Statement
from fedderm.deploy.kit import Kit
from fedderm.deploy.log_file import kept_in
from fedderm.deploy.site_status import log_of, node_status
from fedderm.deploy.validity import day
from strategies.errors import Interrupted


def join(folder: Path, site_file: Path) -> None:
    """Make the node's key and say what to do with the join file."""
    kit = Kit.open(folder)
    statement = kit.join(site_file, datetime.now(UTC))
    _say(f"this node's private key: {kit.key_file} (stays here; never send it to anybody)")
    _say(f"to send to the coordinator: {kit.join_file}")
    _tell_key(statement)
    _say("read this fingerprint out when the coordinator calls you")
    _say(f"once you are registered: fedderm deploy supernode {kit.path}")


def rotate(folder: Path) -> None:
    """Make the key that replaces the node's."""
    kit = Kit.open(folder)
    statement = kit.rotate(datetime.now(UTC))
    _say(f"to send to the coordinator: {kit.join_file}")
    _tell_key(statement)
    _say("the old key goes on until the new one is registered; a running node changes over by itself")


def supernode(folder: Path) -> None:
    """Take part until Ctrl-C."""
    kit = Kit.open(folder)
    # Flower and torch, for a command that stays.
    from fedderm.deploy.supernode import run_supernode

    try:
        with stop_is_ctrl_c(), kept_in(log_of(kit)):
            run_supernode(kit, _say)
    except KeyboardInterrupt as error:
        raise Interrupted(f"{kit.settings.site}: stopped; the site is offline") from error


def status(folder: Path) -> bool:
    """Print how the node is; return whether it is running and admitted."""
    found = node_status(Kit.open(folder))
    for sentence in found.sentences:
        _say(sentence)
    return found.fine


def _tell_key(statement: Statement) -> None:
    _say(f"fingerprint: {statement.fingerprint} (ends on {day(statement.expires)})")


def _say(line: str) -> None:
    output().print(line, soft_wrap=True)
