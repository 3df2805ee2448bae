"""Flower apps with nothing to train: what comes is sent back. Flower and NumPy are all they need."""

from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Return a copy of the arrays, as a site's model is one; first import what a site trains with, where
    asked to."""
    del context
    config = message.content.config_records["config"]
    if config.get("site-code"):
        import fedderm.site_tasks  # noqa: F401
    sent = message.content.array_records["arrays"]
    arrays = ArrayRecord({name: Array(array.numpy().copy()) for name, array in sent.items()})
    server_round = cast("int", config["server-round"])
    metrics = MetricRecord({"server-round": server_round, "num-examples": 1, "loss": 0.0})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Hold two rounds over two nodes, as Flower's tutorials do."""
    told = ConfigRecord({"site-code": bool(context.run_config.get("site-code", False))})
    arrays = ArrayRecord({"weights": Array(np.zeros(1000, np.float32))})
    FedAvg(fraction_evaluate=0.0).start(grid, arrays, num_rounds=2, train_config=told)
