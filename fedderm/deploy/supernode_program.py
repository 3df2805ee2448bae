"""Flower's SuperNode as a program, which forgets a message that nobody waits for any more.

Flower 1.41 pulls a message, has it answered, sends the answer, pulls the next. Where the run is stopped while
a message is pulled, it gives up the message but not its task: the process that already has the task leaves an
answer, which the next run's message then takes for its own, and the node is one answer behind from there on.
Started by ``fedderm deploy supernode`` as ``python -m fedderm.deploy.supernode_program``, with
``flower-supernode``'s options.
"""

from collections.abc import Callable
from typing import Any

from flwr.common.constant import SubStatus
from flwr.supercore.object_store import ObjectStore
from flwr.supernode import start_client_internal as flower
from flwr.supernode.cli import flower_supernode
from flwr.supernode.nodestate import NodeState

Pull = Callable[..., int | None]
_FINISHED = "finished"


def forgetting(pull: Pull) -> Pull:
    """Return ``pull``, after which nothing is left of a message that it did not hand over."""

    def pulled(state: NodeState, object_store: ObjectStore, **how: Any) -> int | None:
        """Pull as Flower does, and forget what it gave up."""
        run = pull(state=state, object_store=object_store, **how)
        if run is None:  # no message is at work: whatever is here belongs to a run that was stopped
            forget(state, object_store)
        return run

    return pulled


def forget(state: NodeState, object_store: ObjectStore) -> None:
    """End all tasks, which takes their processes' right to answer, and drop all messages."""
    for task in state.get_tasks():
        if task.status.status != _FINISHED:
            state.finish_task(task.task_id, sub_status=SubStatus.STOPPED, details="its run was stopped")
    state.delete_messages()
    object_store.clear()


if __name__ == "__main__":
    flower._pull_and_store_message = forgetting(flower._pull_and_store_message)
    flower_supernode()
