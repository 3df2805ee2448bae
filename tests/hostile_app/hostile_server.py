"""A coordinator that asks for more than allowed, and writes down what it got."""

import json
import time
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedderm import config, messages

app = ServerApp()
SALT = "a salt of sixteen or more"


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask both nodes for their card, and the one that runs code of its own for more; write all answers."""
    run = config.load(Path(str(context.run_config["config"])))
    while len(list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    nodes = sorted(grid.get_node_ids())

    def record(**values: Any) -> ConfigRecord:
        return messages.config_record(run, salt=SALT, **values)

    other = record()
    other["fedderm-version"] = "9.9.9"
    beyond = [
        (messages.QUERY, messages.request(other)),
        (messages.TRAIN, messages.request(record(server_round=1))),
        (messages.EVALUATE, messages.request(record(splits="train", views=1))),
    ]
    cards = {node: asked(grid, node, [(messages.QUERY, messages.request(record()))]) for node in nodes}
    (careful,) = [node for node, said in cards.items() if "stolen" not in said[0]]
    cards[careful] += asked(grid, careful, beyond)
    Path(str(context.run_config["out"])).write_text(json.dumps(list(cards.values())))


def asked(grid: Grid, node: int, questions: list[tuple[str, RecordDict]]) -> list[str]:
    """Return what a node answers to each question, in the order in which the answers come."""
    sent = [Message(content, node, kind) for kind, content in questions]
    return [words(reply) for reply in grid.send_and_receive(sent, timeout=500)]


def words(reply: Message) -> str:
    """Return all texts of an answer, or the sentence in place of one."""
    if reply.has_error():
        return f"error: {reply.error.reason}"
    parts = (f"{name}: {dict(one)}" for name, one in reply.content.items() if isinstance(one, ConfigRecord))
    return " ".join(parts)
