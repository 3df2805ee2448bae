"""Small Flower apps that Ray workers can import: what a site does is told by the message's config."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

client_app = ClientApp()


@client_app.query()
def query(message: Message, context: Context) -> Message:
    """Answer with the site's partition, process and thread setting, or do what the config says."""
    config = message.content["config"]
    partition = int(context.node_config["partition-id"])
    if config.get("die") == partition and not Path(str(config["once"])).exists():
        Path(str(config["once"])).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if config.get("raise") == partition:
        raise ValueError("this site cannot read its images")
    if "sleep" in config:
        Path(str(config["folder"]), f"busy-{os.getpid()}").touch()
        time.sleep(float(config["sleep"]))
    card = ConfigRecord(
        {"partition": partition, "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS", "")}
    )
    return Message(RecordDict({"card": card}), reply_to=message)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Add the site's partition plus one to every weight and one to the counter."""
    partition = int(context.node_config["partition-id"])
    arrays = message.content["arrays"]
    new = ArrayRecord(
        {
            name: Array(np.asarray(array.numpy() + np.asarray(partition + 1, dtype=array.dtype)))
            for name, array in arrays.items()
        }
    )
    number = int(str(message.content["config"]["server-round"]))
    metrics = MetricRecord({"server-round": number, "num-examples": 10 * (partition + 1), "loss": 0.5})
    return Message(RecordDict({"arrays": new, "metrics": metrics}), reply_to=message)
