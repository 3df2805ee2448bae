"""How long keys and certificates hold, and what is said before and after."""

from datetime import datetime, timedelta
from typing import Final

AUTHORITY: Final = timedelta(days=3650)
SERVER: Final = timedelta(days=365)
NODE: Final = timedelta(days=365)
WARN_BEFORE: Final = timedelta(days=30)
CLOCKS: Final = timedelta(minutes=10)
"""What two machines' clocks may differ by."""


def day(moment: datetime) -> str:
    """Return a date as ISO 8601 says it."""
    return f"{moment:%Y-%m-%d}"


def check_validity(what: str, until: datetime, now: datetime, remedy: str) -> str | None:
    """Return a warning where ``what`` ends within 30 days, None where later.

    Raises ValueError where it has ended.
    """
    if now >= until:
        raise ValueError(f"{what} ended on {day(until)}; {remedy}")
    left = until - now
    if left > WARN_BEFORE:
        return None
    return f"{what} ends on {day(until)}, in {max(left.days, 0)} days; {remedy}"
