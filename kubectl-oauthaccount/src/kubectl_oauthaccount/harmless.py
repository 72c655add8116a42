"""Cleans text from the cluster before it is printed, so that a terminal takes none of it for a command."""

import json
from typing import Any

_HARMLESS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def clean(value: Any) -> Any:
    """The same, without control characters in any text of it."""
    if isinstance(value, str):
        return value.translate(_HARMLESS)
    if isinstance(value, dict):
        return {key: clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [clean(inner) for inner in value]
    return value


def decoded(body: str | None) -> dict[str, Any]:
    """An answer of the API server, clean; empty when it is not one."""
    try:
        answer = json.loads(body or "")
    except ValueError:
        return {}
    return clean(answer) if isinstance(answer, dict) else {}
