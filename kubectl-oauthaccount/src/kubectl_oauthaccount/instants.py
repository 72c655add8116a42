"""Instants and durations as text: what the API writes, and what a person types."""

import re
from datetime import UTC, datetime

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def instant(text: object) -> datetime | None:
    """An RFC 3339 instant of the API, if that is what it is."""
    try:
        parsed = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return parsed if parsed.tzinfo is not None else None


def rfc3339(moment: datetime) -> str:
    """An instant as Kubernetes writes them: UTC, whole seconds, `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_seconds(text: str) -> float:
    """A duration as kubectl takes them (`90s`, `10m`, `1h30m`, `1.5h`, and plain seconds); ValueError for anything else."""
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    if not re.fullmatch(rf"(?:{_PART.pattern})+", text):
        raise ValueError(f"{text!r} is not a duration such as 90s, 10m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
