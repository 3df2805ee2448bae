"""The process that works for sites, as Ray starts it; it imports nothing heavy before its first message."""

from collections.abc import Mapping

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp


class SiteWorker:
    """The process that works for sites: a Ray actor."""

    def __init__(self, app: ClientApp) -> None:
        self._app = app
        self._held: dict[str, ArrayRecord] = {}

    def ready(self) -> None:
        """Return once the process is there."""

    def hold(self, keys: list[str], *records: ArrayRecord) -> None:
        """Take arrays, views of shared memory, for the next messages: a round sends all sites the same."""
        self._held.update(zip(keys, records, strict=True))

    def let_go(self, key: str) -> None:
        """Forget arrays that nobody sends any more, so that their memory has room for the next."""
        self._held.pop(key, None)

    def work(self, message: Message, context: Context, arrays: Mapping[str, str]) -> tuple[Message, Context]:
        """Return a site's reply and its context; ``arrays`` names what is held, the rest is let go."""
        self._held = {key: self._held[key] for key in arrays.values()}
        message.content.update({name: self._held[key] for name, key in arrays.items()})
        return self._app(message, context), context
