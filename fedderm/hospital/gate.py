"""The one door of a hospital's node: every message goes through it, and all that leaves.

A node without a site file, in a simulation, belongs to whoever runs it and has no policy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedderm import messages
from fedderm.hospital.asked import Asked, asked_of, in_words, plain, round_of
from fedderm.hospital.memory import SHOWN, Request, now
from fedderm.hospital.policy import Policy
from fedderm.hospital.record import Record
from fedderm.hospital.sent_log import LogBroken
from fedderm.refusal import Refused, Tellable
from fedderm.site_file import SITE_FILE, read_policy, read_site_file
from sites.site import SiteSettings
from strategies.packing import is_packed, packed, unpacked

Answer = Callable[[Message, Context], Message]


class GatedApp(ClientApp):
    """A ClientApp that asks the hospital's policy first; exchanges that no function is for, too."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the answer to a message, or raise what its server is told instead."""
        own = context.node_config.get(SITE_FILE)
        if own is None:
            messages.require_version(message, f"node {context.node_id}")
            return super().__call__(message, context)
        return Gate(Path(str(own)), message).answer(context, super().__call__)


@dataclass(frozen=True)
class Gate:
    """One message at the door of the hospital whose site file this is."""

    site_file: Path
    message: Message

    def answer(self, context: Context, work: Answer) -> Message:
        """Return the answer that ``work`` gives, once it is in the log.

        Raises Tellable, whose sentence leaves in place of an answer and is in the log, too: the policy's own
        words, or that the site could not do it, while the reason, which may quote the site's files, stays.
        """
        asked, who = None, "this site"
        try:
            site, policy = read_site_file(self.site_file), read_policy(self.site_file)
            who = f"site {site.name}"
            asked = asked_of(self.message, site, policy)
            self._admit(asked, site, policy)
            came_packed = is_packed(self.message.content)
            if came_packed:
                self.message.content = unpacked(self.message.content)
            reply = work(self.message, context)
            leaving = packed(reply.content) if came_packed else reply.content
            about = content_of(reply.content, leaving)
        except Refused as error:
            self._log(who, {**self._about("refused", asked), "told": str(error)})
            raise
        except Exception as error:
            told, detail = _told(who, error), plain(f"{type(error).__name__}: {error}", longest=2000)
            self._log(who, {**self._about("failed", asked), "told": told, "detail": detail})
            raise Tellable(told) from error
        self._log(who, {**self._about("sent", asked), **about})
        reply.content = leaving
        return reply

    def _admit(self, asked: Asked, site: SiteSettings, policy: Policy) -> None:
        """Count the exchange.

        Raises Refused where a person has not approved its run, or not as much of it, or the day is full.
        """
        time = now()
        limit, kinds, key = policy.per_day(asked.kind)
        waits, full, beyond = False, False, False
        with self._record.memory.change() as memory:
            if policy.approve_runs and not memory.admits(asked.digest, asked.run):
                waits = True
                words = in_words(asked.experiment, site, policy)
                request = Request(asked=time, experiment=asked.experiment.name, words=words)
                memory.ask(asked.digest, request)
            elif limit is not None and memory.begun(kinds, time) >= limit:
                full = True
            elif policy.approve_runs and not memory.count(asked.digest, asked.run, asked.kind, asked.most):
                beyond = True
            else:
                memory.begin(asked.kind, time)
        if waits:
            raise Refused(
                f"site {site.name}: run {asked.digest[:SHOWN]} is waiting for approval at the hospital "
                "(fedderm site approve); start or resume it once they have"
            )
        if beyond:
            raise Refused(
                f"site {site.name}: run {asked.digest[:SHOWN]} was approved for its own rounds, and has "
                f"asked {asked.kind} {asked.most} times; a run that is resumed needs another yes"
            )
        if full:
            raise Refused(
                f"site {site.name}: its policy answers {limit} of {' and '.join(kinds)} in 24 hours ({key}), "
                "and has; resume the run later"
            )

    def _about(self, what: str, asked: Asked | None) -> dict[str, Any]:
        """Return what every entry of the log says of the message that it is about."""
        metadata = self.message.metadata
        return {
            "what": what,
            "exchange": asked.kind if asked else plain(metadata.message_type),
            "run": str(metadata.run_id),
            "request": asked.digest if asked else None,
            "experiment": asked.experiment.name if asked else None,
            "round": round_of(self.message),
        }

    def _log(self, who: str, entry: dict[str, Any]) -> None:
        """Write an entry; raises Refused where that cannot be done: nothing leaves that is not logged."""
        try:
            self._record.log.add(entry)
        except (OSError, LogBroken) as error:
            why = "is not whole" if isinstance(error, LogBroken) else "cannot be written"
            raise Refused(
                f"{who}: the hospital's log of what leaves {why}; nothing leaves until it is mended"
            ) from error

    @property
    def _record(self) -> Record:
        return Record.of(self.site_file)


def _told(who: str, error: Exception) -> str:
    """Return what the server is told of an error: its own words only where they are fit to leave."""
    if isinstance(error, Tellable):
        return str(error)
    return f"{who}: it could not answer; the hospital's own log says why"


def content_of(content: RecordDict, leaving: RecordDict) -> dict[str, Any]:
    """Return what the log says of an answer: its records, what is in them, their bytes, and a hash of it all.

    The hash is the SHA-256 by which Flower itself calls ``leaving``, the same records as they travel.
    """
    records = []
    for name, record in content.items():
        found: dict[str, Any] = {"name": name, "kind": type(record).__name__, "bytes": record.count_bytes()}
        if isinstance(record, ArrayRecord):
            found["arrays"] = [
                {"name": key, "dtype": one.dtype, "shape": list(one.shape), "bytes": len(one.data)}
                for key, one in record.items()
            ]
        else:
            found["keys"] = sorted(record)
            found |= {key: record[key] for key in ("epsilon", "delta") if key in record}
        records.append(found)
    return {
        "records": records,
        "bytes": sum(record.count_bytes() for record in leaving.values()),
        "content": leaving.object_id,
    }
