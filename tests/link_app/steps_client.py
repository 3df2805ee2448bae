"""A site of NumPy alone, for tests that start a process for each message: training adds a known step.

The node's config names its ``site``, its number of ``images``, its ``step`` and a folder ``gate``. In it the
site says when it begins and ends a round (``b-2.began``, ``b-2.ended``), and waits as long as ``b-2.hold`` is
there. ``poison``: a word for each round, of what it sends in place of an honest update.
"""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedderm import __version__

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Introduce the site, as fedderm's sites do."""
    held = context.node_config
    card = {"name": held["site"], "role": "train", "fedderm": __version__, "num_examples": held["images"]}
    card["taught"] = {}
    record = ConfigRecord({"json": json.dumps(card), "fingerprints": "{}"})
    return Message(RecordDict({"card": record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return the model plus the site's step, once nobody holds the site up."""
    held, number = context.node_config, int(str(message.content["config"]["server-round"]))
    mark = str(Path(str(held["gate"])) / f"{held['site']}-{number}")
    Path(f"{mark}.began").touch()
    while Path(f"{mark}.hold").exists():
        time.sleep(0.05)
    values = message.content["arrays"]["w"].numpy() + np.float32(held["step"])
    images = int(held["images"])
    poison = dict(enumerate(str(held.get("poison", "")).split(), start=1)).get(number, "none")
    if poison == "nan":
        values[1] = np.nan
    elif poison == "huge":
        values = np.full_like(values, 1e30)
    elif poison == "shape":
        values = np.zeros(3, np.float32)
    elif poison == "round":
        number -= 1
    elif poison == "weight":
        images *= 1000
    metrics = MetricRecord({"server-round": number, "num-examples": images, "loss": 0.5})
    Path(f"{mark}.ended").touch()
    return Message(
        RecordDict({"arrays": ArrayRecord({"w": Array(values)}), "metrics": metrics}), reply_to=message
    )


@app.evaluate()
def evaluate(message: Message, _: Context) -> Message:
    """Return no counts: a site without images in these splits."""
    return Message(RecordDict({"counts": ArrayRecord({})}), reply_to=message)
