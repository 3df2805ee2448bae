"""fedderm's own ClientApp, which also tells when its local training began and ended, and in which process."""

import os
import time
from typing import Any
from unittest.mock import patch

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedderm import messages
from fedderm.client_app import app as real

BEGIN, END, WORKER = "begin", "end", "worker"
"""The metrics that it adds to a reply."""


class NotedClientApp(ClientApp):
    """The real app, called for every message; of ``train`` the training inside is timed."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the real app's reply."""
        if message.metadata.message_type != messages.TRAIN:
            return real(message, context)
        from fedderm import site_tasks
        from fedderm.training import train_locally

        times: list[float] = []

        def noted(*arguments: Any, **named: Any) -> Any:
            times.append(time.monotonic())
            result = train_locally(*arguments, **named)
            times.append(time.monotonic())
            return result

        with patch.object(site_tasks, "train_locally", noted):
            reply = real(message, context)
        begin, end = times
        reply.content.metric_records["metrics"].update({BEGIN: begin, END: end, WORKER: os.getpid()})
        return reply


app = NotedClientApp()
