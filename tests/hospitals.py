"""A hospital's node for tests: a site file, and the real ClientApp that answers what a server sends it."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from federations import SITES, raw_config, simulated
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedderm import client_app, config, messages
from fedderm.hospital.record import Record
from fedderm.serving import first_model
from fedderm.settings import Experiment
from fedderm.site_file import SITE_FILE

SALT = "a salt of sixteen or more"


class Hospital:
    """One of ``federations.SITES`` behind a site file in ``folder``; its images lie in ``root``."""

    def __init__(
        self, root: Path, folder: Path, name: str, policy: dict[str, Any] | None = None, **changes: Any
    ) -> None:
        site = next(one for one in SITES if one["name"] == name)
        self.file = folder / f"{name}.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        described = {**simulated(**site), "min_cell": 0, "work_dir": str(root / "cache"), **changes}
        self.file.write_text(yaml.safe_dump(described | ({"policy": policy} if policy else {})))
        self.record = Record.of(self.file)

    def asked(self, message: Message) -> Message:
        """Return the node's answer; raises what would be told to the server."""
        return client_app.app(message, Context(1, 5, {SITE_FILE: str(self.file)}, RecordDict(), {}))

    def log(self) -> list[dict[str, Any]]:
        """Return the entries of its log, after checking that it is whole."""
        self.record.log.check()
        return list(self.record.log.entries())


def experiment(root: Path, **changes: Any) -> Experiment:
    """Return the small experiment whose simulated sites lie below ``root``."""
    return config.parse(raw_config(root, **changes))


def asking(run: Experiment, kind: str, run_id: int = 1, version: str | None = None, **values: Any) -> Message:
    """Return a server's message, with all that this kind of exchange takes unless ``values`` say otherwise.

    ``kind`` is any message type; ``version`` None is this version.
    """
    usual: dict[str, Any] = {
        messages.TRAIN: {"server_round": 1},
        messages.EVALUATE: {"splits": "calibration,test", "views": 1},
        messages.RECALIBRATE: {"views": 1},
    }.get(kind, {})
    record = messages.config_record(run, **{"salt": SALT, **usual, **values})
    if version is not None:
        record["fedderm-version"] = version
    arrays = None if kind == messages.QUERY else messages.to_record(first_model(run).arrays)
    message = Message(messages.request(record, arrays), dst_node_id=5, message_type=kind)
    message.metadata.__dict__["_message_id"] = "1"
    message.metadata.__dict__["_run_id"] = run_id
    return message


def bare(kind: str) -> Message:
    """Return a message without an experiment or anything else of fedderm's."""
    message = Message(RecordDict({"config": ConfigRecord({"path": "/etc/passwd"})}), 5, kind)
    message.metadata.__dict__["_message_id"] = "1"
    return message


def sizes(reply: Message) -> dict[str, int]:
    """Return the images that an answer to ``evaluate`` counts, by split."""
    return {split: int(np.asarray(one)[0].sum()) for split, one in messages.read_counts(reply).items()}
