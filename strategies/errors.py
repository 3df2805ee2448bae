"""What can go wrong in a round, in one sentence each. Nothing is imported here, so any room may look."""

# The names say what happened, as KeyboardInterrupt does.
# ruff: noqa: N818


class Interrupted(Exception):
    """The person asked to stop; what finished before is kept and the run can be resumed."""


class ReplyRefused(ValueError):
    """A site's reply cannot be aggregated: the site, the array, what was expected and what was found."""


class QuorumLost(ValueError):
    """Too few sites answered usably for a round to count: who is missing and why."""


class AggregateRefused(ValueError):
    """The strategy returned something that cannot be the next global model."""
