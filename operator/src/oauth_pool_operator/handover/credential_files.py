"""Credentials as other programs write them to files: what is in them, entry by entry.

Two formats are known: the `credentials.json` of the service that this project replaces (entries `{type, refresh, access,
expires}` by account id, `expires` in milliseconds; one entry alone is fine, too), and the file that the provider's SDKs keep
per profile (`access_token`, `refresh_token`, `expires_at` in seconds). A bad entry is named and costs no other. No text made
here holds anything of what was read but the names of entries.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

# Where Claude Code keeps its login in .credentials.json.
CLAUDE_CODE = "claudeAiOauth"

# An instant further away than this is not one: somebody took milliseconds for seconds.
LAST_YEAR = 2200


class CredentialFileInvalid(Exception):
    """What was read is none of the known formats; the text is for the person who gave it."""


class _BadEntry(Exception):
    pass


@dataclass(frozen=True)
class Entry:
    """One credential. An access token whose end is not known is as good as expired: it is refreshed at once."""

    refresh_token: str = field(repr=False)
    access_token: str = field(repr=False)
    expires: datetime


@dataclass(frozen=True)
class Found:
    """The good entries and what is wrong with the others, by id; the id of a single entry without one is empty."""

    entries: dict[str, Entry]
    problems: dict[str, str]


def parse(content: bytes) -> Found:
    """Everything that can be used; `CredentialFileInvalid` when the whole makes no sense."""
    document = _document(content)
    if CLAUDE_CODE in document:
        raise CredentialFileInvalid(
            "it is Claude Code's own login (claudeAiOauth), which cannot be imported: Claude Code keeps refreshing "
            "it, and each of its refresh tokens works only once; log the account in instead (kubectl oauthaccount login NAME)"
        )
    if "access_token" in document or document.get("type") == "oauth_token":
        candidates, read = {"": document}, _sdk_entry
    elif any(isinstance(document.get(name), str) for name in ("refresh", "access")):
        candidates, read = {"": document}, _entry
    else:
        candidates, read = document, _entry
    entries, problems = {}, {}
    for name, raw in candidates.items():
        try:
            entries[name] = read(raw)
        except _BadEntry as error:
            problems[name] = str(error)
    return _without_duplicates(Found(entries, problems))


def shown(name: str) -> str:
    """An entry's id as it can be printed."""
    return name if name.isprintable() else ascii(name)


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise CredentialFileInvalid("it is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        # `from None`: the decoder's error holds the whole text
        raise CredentialFileInvalid(f"it is not valid JSON: line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise CredentialFileInvalid("it is nested too deeply") from None
    if not isinstance(document, dict) or not document:
        raise CredentialFileInvalid("it is not a JSON object with credentials in it")
    return document


def _entry(raw: Any) -> Entry:
    """`{"type": "oauth", "refresh": …, "access": …, "expires": milliseconds}`."""
    if not isinstance(raw, dict):
        raise _BadEntry("it is not an object")
    if "type" not in raw:
        raise _BadEntry("it has no type; it must be oauth")
    if raw["type"] != "oauth":
        raise _BadEntry("its type is not oauth")
    return Entry(_text(raw, "refresh"), _text(raw, "access"), _instant(raw, "expires", 1000))


def _sdk_entry(raw: Any) -> Entry:
    """`{"type": "oauth_token", "access_token": …, "refresh_token": …, "expires_at": seconds}`; the type may be missing."""
    if raw.get("type", "oauth_token") != "oauth_token":
        raise _BadEntry("its type is not oauth_token")
    if raw.get("refresh_token") is None:
        raise _BadEntry("it has no refresh_token: something else keeps its access token fresh, and must keep doing so")
    return Entry(_text(raw, "refresh_token"), _text(raw, "access_token"), _instant(raw, "expires_at", 1))


def _text(raw: dict[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value:
        raise _BadEntry(f"its {name} is {'missing' if value in (None, '') else 'not a text'}")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise _BadEntry(f"its {name} is not a token: it holds characters that no token has")
    return value


def _instant(raw: dict[str, Any], name: str, per_second: int) -> datetime:
    value = raw.get(name)
    if value is None:
        return datetime.fromtimestamp(0, UTC)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _BadEntry(f"its {name} is not a number")
    try:
        instant = datetime.fromtimestamp(value / per_second, UTC)
        if instant.year <= LAST_YEAR:
            return instant
    except (ValueError, OverflowError, OSError):
        pass
    unit = "milliseconds" if per_second > 1 else "seconds"
    raise _BadEntry(f"its {name} is not a time in {unit} since 1970")


def _without_duplicates(found: Found) -> Found:
    """A refresh token is good for one use: two accounts that share one would lose it."""
    counts = Counter(entry.refresh_token for entry in found.entries.values())
    entries = {name: entry for name, entry in found.entries.items() if counts[entry.refresh_token] == 1}
    twice = "another entry has the same refresh token, and only one account can use it"
    return Found(entries, found.problems | {name: twice for name in found.entries if name not in entries})
