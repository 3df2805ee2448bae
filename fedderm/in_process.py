"""A federation in this very process: the real ClientApp is called when its reply is pulled.

For many small runs, such as the cells of a comparison: no Ray, no network, no second copy of a model, and
sites keep their tables and pixels open from one run to the next. The sites' answers, and so the weights, are
those of a simulation with Ray, bit for bit.
"""

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message
from flwr.clientapp import ClientApp

from fedderm.local_grid import LocalGrid, failure
from strategies.arrays import copied, records


class InProcessGrid(LocalGrid):
    """Nodes that answer one at a time, in the order asked."""

    def __init__(self, app: ClientApp, nodes: int) -> None:
        super().__init__(nodes)
        self._app = app
        self._waiting: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep the messages until their replies are pulled; return their ids."""
        ids = []
        for message in messages:
            ids.append(self.named(message))
            self._waiting[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the reply of one of the waiting sites, which works for it now; none where none waits."""
        waiting = [key for key in message_ids if key in self._waiting]
        if not waiting:
            return []
        chosen = min(waiting, key=lambda key: self.turn(self.position_of(self._waiting[key])))
        reply = self.answer(self._waiting.pop(chosen))
        return [] if reply is None else [reply]

    def turn(self, position: int) -> int:
        """Return when the site at ``position`` has its turn among those that wait: in the config's order."""
        return position

    def answer(self, message: Message) -> Message | None:
        """Return a site's reply; its exception becomes an error, as it would in another process."""
        try:
            reply = self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            return failure(message, error)
        if reply.has_content():
            # A reply shows the memory of the site's model, in which the next site here will train.
            for name, record in records(reply.content, ArrayRecord).items():
                reply.content[name] = copied(record)
        return reply

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return all replies, in the order asked; nothing is waited for, so ``timeout`` has no meaning."""
        del timeout
        waiting = list(self.push_messages(messages))
        return [reply for key in waiting for reply in self.pull_messages([key])]
