"""The one module that writes and reads Flower records. See docs/architecture.md, "What travels"."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from pydantic import ValidationError

from fedderm import __version__
from fedderm.config import from_json, to_json
from fedderm.refusal import Refused
from fedderm.settings import Experiment
from fedderm.weights import Arrays
from strategies.arrays import to_record, view
from strategies.half_precision import reply_arrays
from strategies.scaffold import CONTROL

QUERY: Final = "query"
TRAIN: Final = "train"
HEAD: Final = "train.head"
EVALUATE: Final = "evaluate"
RECALIBRATE: Final = "query.recalibrate"

_ARRAYS, _CONFIG, _METRICS, _CARD = "arrays", "config", "metrics", "card"
_COUNTS, _REPLICATES, _DOCUMENT, _MOMENTS = "counts", "replicates", "evaluation", "moments"
_FEATURES, _REFERENCE, _DISTANCES = "features", "reference", "distances"
_VERSION = "fedderm-version"


@dataclass(frozen=True)
class Instruction:
    """What a message asks for, beside its arrays.

    ``experiment`` is the run's config; ``values`` is what this exchange adds (round, splits, ...).
    """

    experiment: Experiment
    values: Mapping[str, Any]


def config_record(experiment: Experiment, **values: Any) -> ConfigRecord:
    """Return the config record of any of the four messages; structured values travel as JSON."""
    plain = {
        key.replace("_", "-"): value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for key, value in values.items()
    }
    return ConfigRecord({"experiment": to_json(experiment), _VERSION: __version__, **plain})


def require_version(message: Message, who: str) -> None:
    """Return if the server that wrote the message runs this version of fedderm; otherwise raise Refused.

    Settings, records and numbers may mean something else in another version. ``who`` runs this one.
    """
    config = message.content.get(_CONFIG)
    found = config.get(_VERSION) if isinstance(config, ConfigRecord) else None
    if found != __version__:
        theirs = "one that does not tell its version" if found is None else str(found)[:40]
        raise Refused(
            f"{who} runs fedderm {__version__} and the server {theirs}; install the same version at both"
        )


def request(
    config: ConfigRecord, arrays: ArrayRecord | None = None, reference: ArrayRecord | None = None
) -> RecordDict:
    """Return a message's content; ``reference`` is what training sites look like, for ``recalibrate``."""
    records = {_ARRAYS: arrays, _REFERENCE: reference, _CONFIG: config}
    return RecordDict({name: record for name, record in records.items() if record is not None})


def read_instruction(message: Message) -> Instruction:
    """Return what a message asks for; raises ValueError where the config is missing or unreadable."""
    config = message.content.get(_CONFIG)
    if not isinstance(config, ConfigRecord) or not isinstance(config.get("experiment"), str):
        raise ValueError(
            f"the {message.metadata.message_type} message carries no experiment; update the server"
        )
    own = ("experiment", _VERSION)
    values = {key.replace("-", "_"): value for key, value in config.items() if key not in own}
    try:
        return Instruction(_experiment(str(config["experiment"])), values)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"]) or "it"
        raise ValueError(
            f"the {message.metadata.message_type} message's experiment cannot be read ({where}: "
            f"{detail['msg']}); server and site may run different versions of fedderm"
        ) from error


@lru_cache(maxsize=4)
def _experiment(text: str) -> Experiment:
    return from_json(text)


def from_record(record: ArrayRecord) -> Arrays:
    """Return the arrays of a record: views of the message's own bytes, read-only, no copy."""
    return {name: view(array) for name, array in record.items()}


def read_arrays(message: Message) -> Arrays:
    """Return the model's arrays of a message; raises ValueError where there are none."""
    # Not content.array_records, whose reference cycle would keep the model in memory (strategies.arrays).
    record = message.content.get(_ARRAYS)
    if not isinstance(record, ArrayRecord):
        raise ValueError(f"the {message.metadata.message_type} message carries no arrays; update the server")
    return from_record(record)


def read_control(message: Message) -> Arrays:
    """Return the arrays that a strategy sent beside the model; empty where there are none."""
    record = message.content.get(CONTROL)
    return from_record(record) if isinstance(record, ArrayRecord) else {}


def read_sent(message: Message) -> dict[str, Any]:
    """Return the config values of a message as a strategy wrote them, without the experiment."""
    config = message.content.get(_CONFIG)
    sent = dict(config.items()) if isinstance(config, ConfigRecord) else {}
    return {key: value for key, value in sent.items() if key != "experiment"}


def card_reply(message: Message, card: Mapping[str, Any], fingerprints: Mapping[str, list[str]]) -> Message:
    """Return a site's answer to ``query``: its card and its salted fingerprints."""
    record = ConfigRecord({"json": json.dumps(dict(card)), "fingerprints": json.dumps(dict(fingerprints))})
    return Message(RecordDict({_CARD: record}), reply_to=message)


def read_card(message: Message) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return a site's card and its salted fingerprints."""
    record = message.content.config_records[_CARD]
    return json.loads(str(record["json"])), json.loads(str(record["fingerprints"]))


def train_reply(
    message: Message,
    arrays: Arrays,
    metrics: Mapping[str, float | int],
    beside: Mapping[str, Mapping[str, npt.NDArray[Any]]],
) -> Message:
    """Return a site's answer to ``train``; ``beside`` are records of a strategy's own.

    Of arrays that came as float16 their update goes back. Raises ValueError where one is beyond float16.
    """
    own = {name: to_record(one) for name, one in beside.items()}
    model = to_record(reply_arrays(arrays, read_arrays(message)))
    content = RecordDict({_ARRAYS: model, **own, _METRICS: MetricRecord(dict(metrics))})
    return Message(content, reply_to=message)


def moments_reply(message: Message, moments: Mapping[str, npt.NDArray[Any]]) -> Message:
    """Return a site's answer to ``train.head``: additive moments of its features."""
    return Message(RecordDict({_MOMENTS: to_record(moments)}), reply_to=message)


def read_moments(message: Message) -> Arrays:
    """Return the moments of an answer to ``train.head``; raises ValueError where a value is not finite."""
    found = from_record(message.content.array_records[_MOMENTS])
    for name, values in found.items():
        if not np.isfinite(values.astype(np.float64, copy=False)).all():
            raise ValueError(f"{name} holds values that are not finite")
    return found


def read_reference(message: Message) -> Arrays:
    """Return the reference of a ``recalibrate`` message; empty where it carries none."""
    record = message.content.get(_REFERENCE)
    return from_record(record) if isinstance(record, ArrayRecord) else {}


def counts_reply(
    message: Message, counts: Mapping[str, npt.NDArray[Any]], features: Mapping[str, npt.NDArray[Any]]
) -> Message:
    """Return a site's answer to ``evaluate``: additive counts by split; sums of features where asked for."""
    content = RecordDict({_COUNTS: to_record(counts)})
    if features:
        content[_FEATURES] = to_record(features)
    return Message(content, reply_to=message)


def read_counts(message: Message) -> Arrays:
    """Return the counts by split of an answer to ``evaluate`` or ``recalibrate``."""
    return from_record(message.content.array_records[_COUNTS])


def read_features(message: Message) -> Arrays:
    """Return the sums of features of an answer to ``evaluate``; empty where it has none."""
    record = message.content.get(_FEATURES)
    return from_record(record) if isinstance(record, ArrayRecord) else {}


def evaluation_reply(
    message: Message,
    document: str,
    counts: Mapping[str, npt.NDArray[Any]],
    replicates: Mapping[Any, npt.NDArray[Any]],
    distances: Mapping[str, npt.NDArray[Any]],
) -> Message:
    """Return a site's answer to ``recalibrate``: its document, its counts and its bootstrap replicates.

    Of a training site also how far its images lie from the reference, where there is one.
    """
    content = RecordDict(
        {
            _DOCUMENT: ConfigRecord({"json": document}),
            _COUNTS: to_record(counts),
            _REPLICATES: to_record(replicates),
        }
    )
    if distances:
        content[_DISTANCES] = to_record(distances)
    return Message(content, reply_to=message)


def read_evaluation(message: Message) -> tuple[str, Arrays]:
    """Return the document and the replicates of an answer to ``recalibrate``."""
    document = str(message.content.config_records[_DOCUMENT]["json"])
    return document, from_record(message.content.array_records[_REPLICATES])


def read_distances(message: Message) -> Arrays:
    """Return the distances of an answer to ``recalibrate``; empty where it has none."""
    record = message.content.get(_DISTANCES)
    return from_record(record) if isinstance(record, ArrayRecord) else {}


def given_up_images(instruction: Instruction, site: str) -> tuple[str, frozenset[str]]:
    """Return the salt, and the salted ids of the images that ``site`` leaves to another site."""
    listed = json.loads(str(instruction.values.get("given_up", "{}")))
    return str(instruction.values.get("salt", "")), frozenset(listed.get(site, ()))


def frozen_trunk(instruction: Instruction) -> str:
    """Return the digest of the server's trunk, "" where the trunk is trained.

    Raises ValueError where it is frozen and the message does not tell it.
    """
    if instruction.experiment.training.trunk == "trained":
        return ""
    if not instruction.values.get("trunk"):
        raise ValueError("the message does not tell which trunk is frozen; update the server")
    return str(instruction.values["trunk"])
