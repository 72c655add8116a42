"""Reads one `[[oauth.rules]]` table: what an answer looks like, and what it says about the account."""

import re

from oauth_pool_proxy.config.settings import Rule, Verdict
from oauth_pool_proxy.config.table import Table

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2, token


def rule_of(table: Table) -> Rule:
    table.only("status", "words", "json_path", "json_values", "header", "header_values", "verdict", "cooldown_secs")
    rule = Rule(
        verdict=_verdict(table),
        statuses=_statuses(table),
        words=tuple(word.lower() for word in table.texts("words", ())),
        json_path=_json_path(table),
        json_values=_with("json_path", "json_values", table),
        header=_header(table),
        header_values=_with("header", "header_values", table),
        cooldown=table.number("cooldown_secs", 300, least=1) if table.has("cooldown_secs") else None,
    )
    if not (rule.statuses or rule.words or rule.json_path or rule.header):
        table.refuse("has no condition; it needs at least one of status, words, json_path and header")
    return rule


def _verdict(table: Table) -> Verdict:
    table.required_text("verdict", f"one of {', '.join(Verdict)}")
    return table.choice("verdict", Verdict.PASS_ON)


def _statuses(table: Table) -> frozenset[int]:
    """Only from 400 up: any lower status is a good answer."""
    return frozenset(table.numbers("status", least=400, most=599))


def _json_path(table: Table) -> tuple[str, ...]:
    text = table.text("json_path")
    parts = tuple(text.split(".")) if text else ()
    if not all(parts):
        table.refuse('must be names with dots between them, such as "error.details.error_code"', "json_path")
    return parts


def _header(table: Table) -> bytes | None:
    name = table.text("header")
    if name is not None and not _HEADER_NAME.fullmatch(name):
        table.refuse("is not a valid header name", "header")
    return name.lower().encode() if name else None


def _with(key: str, values_key: str, table: Table) -> tuple[str, ...]:
    values = table.texts(values_key, ())
    if values and not table.has(key):
        table.refuse(f"has no effect without {key}", values_key)
    return values
