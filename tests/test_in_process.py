"""A federation in one process: the same answers as over Ray, in the order asked."""

from pathlib import Path

import numpy as np
import pytest
from federations import Notes, new_run, same, weights
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedderm import client_app
from fedderm.in_process import InProcessGrid
from fedderm.serving import conduct
from fedderm.simulation import run_simulation
from strategies.exchange import Member, exchange


def counting_app() -> ClientApp:
    """Return an app whose nodes say their partition and how often they have been asked."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        if "asked" in message.content and context.node_config["partition-id"] == 1:
            raise ValueError("site b: nothing to say")
        seen = context.state.get("seen")
        count = 1 + (int(seen["count"].numpy()[0]) if isinstance(seen, ArrayRecord) else 0)
        context.state["seen"] = ArrayRecord({"count": Array(np.array([count]))})
        partition = int(context.node_config["partition-id"])
        record = ArrayRecord({"said": Array(np.array([partition, count]))})
        return Message(RecordDict({"said": record}), reply_to=message)

    return app


def ask(grid: InProcessGrid, **records: ArrayRecord) -> list[str]:
    members = [Member(node, "ab"[i], 1) for i, node in enumerate(grid.get_node_ids())]
    requests = [(member, RecordDict(dict(records))) for member in members]
    return [
        reply.reason or str(reply.message.content["said"]["said"].numpy().tolist())
        for reply in exchange(grid, requests, "query", 60.0)
        if reply.message is not None or reply.reason
    ]


def test_nodes_answer_in_order_and_keep_their_context() -> None:
    grid = InProcessGrid(counting_app(), 2)
    assert ask(grid) == ["[0, 1]", "[1, 1]"]
    assert ask(grid) == ["[0, 2]", "[1, 2]"]


def test_an_exception_of_a_site_is_its_reply_and_the_others_answer() -> None:
    grid = InProcessGrid(counting_app(), 2)
    assert ask(grid, asked=ArrayRecord()) == ["[0, 1]", "site b: nothing to say"]


def test_flowers_own_way_of_asking_works_too() -> None:
    grid = InProcessGrid(counting_app(), 2)
    messages = [grid.create_message(RecordDict(), "query", node, "1") for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages))
    assert [reply.content["said"]["said"].numpy().tolist() for reply in replies] == [[0, 1], [1, 1]]


@pytest.mark.slow
def test_the_weights_are_those_of_ray_bit_for_bit(root: Path) -> None:
    here = new_run(root, rounds=2)
    conduct(InProcessGrid(client_app.app, 3), here, Notes(), "0123456789abcdef", {})
    over_ray = new_run(root, rounds=2)
    run_simulation(over_ray, Notes())
    assert same(weights(here.path), weights(over_ray.path))
    for name in ("rounds/metrics.csv", "evaluation/metrics.csv", "evaluation/sites.json"):
        assert (here.path / name).read_bytes() == (over_ray.path / name).read_bytes()
    assert not (here.path / "report.html").exists(), "a report is drawn when it is asked for"
