"""The header Retry-After: how long a server asks to be left alone."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LONGEST_S = 366 * 24 * 3600.0
"""A server that asks for more has a wrong clock, or no sense."""


def retry_after_s(value: str | None) -> float | None:
    """Return the seconds that Retry-After asks for (RFC 9110, 10.2.3); None if it says nothing sensible."""
    if value is None:
        return None
    value = value.strip()
    try:
        if value.isascii() and value.isdecimal():
            wait_s = float(value)
        else:
            wait_s = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, wait_s) if wait_s <= _LONGEST_S else None
