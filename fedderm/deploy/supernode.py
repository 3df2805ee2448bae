"""A hospital's SuperNode: checked before it starts, watched while it runs, and told apart when it ends."""

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fedderm.deploy.admission import NotAnswering, ask_admission
from fedderm.deploy.door import Admission
from fedderm.deploy.kit import Kit
from fedderm.deploy.node_key import fingerprint, read_node_key
from fedderm.deploy.programs import flower_program, secret_file
from fedderm.deploy.site_process import answer_messages
from fedderm.deploy.site_status import only_one
from fedderm.deploy.validity import check_validity
from fedderm.site_file import SITE_FILE, read_home

Tell = Callable[[str], None]
_PAUSE_S = 5.0
_LOOK_S = 20.0
_SILENT_S = 60.0
"""Seconds without a call after which a node is silent: its heartbeat comes every 30."""
_PATIENT_S = 45.0
"""Seconds that it may be silent while the server answers: it has to notice that the server is back."""
_LOST = -1
_QUICK_S = 30.0
_GIVEN_UP_S = 150.0
"""Longer than the server takes to see that a node which was killed is gone: until then its own successor is
turned away, too."""
_PROGRAM = (sys.executable, "-m", "fedderm.deploy.supernode_program")


def run_supernode(kit: Kit, tell: Tell) -> None:
    """Take part until Ctrl-C, or until the server turns this site away.

    ``tell`` is given sentences for whoever watches. Raises ValueError where the site cannot start or was
    turned away; a server that is away for a while is waited for.
    """
    site_file = kit.site_file()
    os.umask(0o077)
    read_home(site_file).work_dir.mkdir(parents=True, exist_ok=True)
    with only_one(kit):
        check_admitted(kit, tell)
        turned_away: float | None = None
        while True:
            began = time.monotonic()
            tell(f"{kit.settings.site}: taking part at {kit.settings.server}; Ctrl-C stops")
            code = _one_life(kit, site_file)
            lived = time.monotonic() - began
            _wait_until_admitted(kit, tell)
            if code == _LOST or lived > _QUICK_S:
                turned_away = None
            elif turned_away is None:
                turned_away = began
            elif began - turned_away > _GIVEN_UP_S:
                raise ValueError(
                    f"{kit.settings.server} admits this key, and the SuperNode ends at once every time "
                    f"(exit code {code}): probably another node with the same key is connected; stop it (a "
                    "copy of this folder, here or on another machine), or, if you know of none, call the "
                    "coordinator: somebody has your key"
                )
            why = "lost the server" if code == _LOST else f"ended (exit code {code})"
            tell(f"warning: the SuperNode {why} and is started again")


def _wait_until_admitted(kit: Kit, tell: Tell) -> None:
    told = ""
    while True:
        time.sleep(_PAUSE_S)
        try:
            return check_admitted(kit, tell)
        except NotAnswering as error:
            if str(error) != told:
                tell(f"warning: {error}; asking again")
            told = str(error)


def check_admitted(kit: Kit, tell: Tell) -> None:
    """Return if the server admits this hospital's key now.

    A waiting key takes the place of the node's as soon as it is the one that is admitted. Raises ValueError
    with the server's sentence where neither is.
    """
    joined, key = kit.joined(), kit.key()
    if kit.next_key_file.is_file():
        waiting = fingerprint(read_node_key(kit.next_key_file).public_key())
        if _ask(kit, waiting).admitted:
            kit.take_next_key()
            tell(f"the new key {waiting} is registered and takes the place of the old one")
            return
        tell(f"the new key {waiting} is not registered yet; going on with the old one")
    warning = check_validity(
        "the node's key", joined.expires, datetime.now(UTC), f"renew it: fedderm deploy rotate {kit.path}"
    )
    if warning is not None:
        tell(f"warning: {warning}")
    answer = _ask(kit, fingerprint(key.public_key()))
    if not answer.admitted:
        raise ValueError(answer.sentence)


def _ask(kit: Kit, key: str) -> Admission:
    return ask_admission(kit.settings.server, kit.authority_file, key)


def _one_life(kit: Kit, site_file: Path) -> int:
    """Run one SuperNode to its end and return its exit code."""
    secret = secrets.token_bytes(32)
    address = f"127.0.0.1:{_free_port()}"
    with secret_file(secret) as path, _watching(kit) as lost:
        options = (
            *("--superlink", kit.settings.server),
            *("--root-certificates", str(kit.authority_file)),
            *("--auth-supernode-private-key", str(kit.key_file)),
            *("--node-config", f"{SITE_FILE}={_quoted(site_file)}"),
            *("--isolation", "process", "--superexec-auth-secret-file", str(path)),
            *("--host", "127.0.0.1", "--port", address.rpartition(":")[2]),
        )
        with flower_program([*_PROGRAM, *options], kit.path / "flower") as supernode:
            answer_messages(address, secret, lambda: supernode.poll() is not None or lost.is_set())
            return _LOST if lost.is_set() else supernode.wait()


@contextmanager
def _watching(kit: Kit) -> Iterator[threading.Event]:
    """Yield what is set once the server answers, and says that it has not heard of this node for long.

    A SuperNode whose network fails in the middle of a handshake takes that for a wrong certificate, stops
    calling and stays, doing nothing (Flower 1.41).
    """
    key, lost, over = fingerprint(kit.key().public_key()), threading.Event(), threading.Event()

    def watch() -> None:
        """Set ``lost`` once the server, which answers, has not heard the running node for long."""
        silent_since: float | None = None
        while not over.wait(_LOOK_S):
            try:
                answer = _ask(kit, key)
            except ValueError:  # nobody answers, or somebody else: it is not the node's fault
                silent_since = None
                continue
            last = None if answer.heard is None else (answer.now - answer.heard).total_seconds()
            if not answer.admitted or (last is not None and last <= _SILENT_S):
                silent_since = None
            elif silent_since is None:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > _PATIENT_S:
                lost.set()
                return

    threading.Thread(target=watch, name="watch", daemon=True).start()
    try:
        yield lost
    finally:
        over.set()


def _quoted(path: Path) -> str:
    """Return a path as Flower reads it in a node config, which is TOML in one kind of quotes."""
    if '"' in str(path) or "'" in str(path) or "\\" in str(path):
        raise ValueError(f"{path}: Flower cannot be given a path with quotes or backslashes; rename it")
    return f'"{path}"'


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])
