"""Formats instants, wherever this proxy writes one for a person or another program."""

from datetime import UTC, datetime

LATEST = 253402300799.0
"""9999-12-31T23:59:59Z: RFC 3339 has four digits for the year, and the API server accepts no later instant."""


def rfc3339(instant: float, timespec: str = "seconds") -> str:
    """In UTC (RFC 3339 5.6). Raises `ValueError`, `OverflowError` or `OSError` if the instant is out of range."""
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
