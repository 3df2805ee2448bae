"""The process that answers a message at a hospital: with the fedderm installed there, whatever else was sent.

Flower gives a SuperNode a run's bundle of code and has its own executor unpack and run it. A hospital that
did so would run whatever its coordinator likes, its own policy notwithstanding. This executor takes only
messages for a ClientApp, and answers them with ``fedderm.client_app`` as installed. Processes are forked from
one that has imported torch, which would take seconds for each message.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp as flower

from fedderm.client_app import app

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_PAUSE_S = 0.5
_MOST_AT_WORK = 4
"""Messages in process at a time; with more, the one that came first is given up."""


def answer_messages(address: str, secret: bytes, is_over: Callable[[], bool]) -> None:
    """Answer the messages of the SuperNode whose Runtime interface is at ``address``, until ``is_over``."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["fedderm.site_tasks", __name__])
    multiprocessing.forkserver.ensure_running()  # so that torch is there when the first message comes
    client = RuntimeHttpClient.from_server_address(
        address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE}),
        ],
    )
    wanted = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    at_work: list[ForkServerProcess] = []
    try:
        while not is_over():
            at_work = [process for process in at_work if process.is_alive()]
            token = _next_task(client, wanted)
            if token is None:
                time.sleep(_PAUSE_S)
                continue
            # Nobody waits for the one before: where a run ended while its message was being fetched, Flower
            # goes on trying for hours, and the next run's message would have to wait.
            at_work.append(processes.Process(target=answer_one, args=(address, token, os.getpid())))
            at_work[-1].start()
            if len(at_work) > _MOST_AT_WORK:
                at_work.pop(0).kill()
    finally:
        for process in at_work:
            process.kill()
        client.close()


def _next_task(client: RuntimeHttpClient, wanted: AcquireTaskRequest) -> str | None:
    try:
        task = client.AcquireTask(wanted)
    except httpx.TransportError:  # it is starting, or has ended
        return None
    return task.token if task.HasField("task") and task.token else None


def answer_one(address: str, token: str, parent: int) -> None:
    """Answer one message in this process, as Flower's own does but for whose code it is."""
    flower.install_from_fab = _not_unpacked  # type: ignore[attr-defined,assignment]
    flower.get_load_client_app_fn = _installed  # type: ignore[attr-defined,assignment]
    flower.run_clientapp(
        runtime_api_address=address,
        token=token,
        insecure=True,
        parent_pid=parent,
        runtime_dependency_install=False,
    )


def _not_unpacked(*_: object, **__: object) -> None:
    """Leave the bundle in memory, where it is forgotten."""


def _installed(**_: object) -> Callable[..., object]:
    return lambda *_: app
