"""Everything that can be made to go wrong, and for whom.

A switch is one field of `Switches`: adding one means adding the field here and reading it where it matters; `--help`
shows its description. Every switch may be set for all accounts or for one; what is set for one account wins.
"""

import json
import threading
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Status = Literal["allowed", "allowed_warning", "rejected"]
# in a stream: so many events, or everything up to and with the first event of this type
Position = (
    Count
    | Literal["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta"]
)


class Switches(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The provider's behaviour; the defaults are those of a healthy one. Times are seconds."""

    # --- token endpoint: delays and failures -------------------------------------------------------------------

    token_delay: Annotated[Seconds, "wait this long before anything is redeemed"] = 0
    token_failures: Annotated[Count, "answer the next N requests with token_failure_status"] = 0
    token_failure_status: Annotated[
        Literal[200, 302, 400, 401, 403, 404, 408, 425, 429, 500, 502, 503, 529], "see token_failures"
    ] = 500
    token_failure_error: Annotated[
        str | None, "the OAuth error of token_failures instead of the usual one; empty: a firewall's page of HTML"
    ] = None
    token_failure_retry_after: Annotated[Count | None, "goes with a 429 or 503 of token_failures"] = 30
    token_failure_after_redeem: Annotated[bool, "they come after the code or refresh token was redeemed"] = False
    token_drip: Annotated[Seconds, "the body of an answer with tokens comes byte by byte, this far apart"] = 0
    token_drops_before_redeem: Annotated[Count, "cut the next N connections before anything is redeemed"] = 0
    token_drops_after_redeem: Annotated[Count, "cut the next N connections after the redeeming"] = 0

    # --- token endpoint: what is issued ------------------------------------------------------------------------

    expires_in: Annotated[Count | None, "instead of 28800 (code and refresh) or the federation rule's lifetime"] = None
    access_token_dies_after: Annotated[Seconds | None, "new access tokens die this soon, whatever expires_in says"] = (
        None
    )
    token_status: Annotated[Literal[200, 201, 203], "of an answer with tokens; RFC 6749 5.1 says 200"] = 200
    token_type: Annotated[str, "of an answer with tokens; only Bearer is of use to anybody"] = "Bearer"
    granted_scope: Annotated[str | None, "what answers say was granted, whatever was asked for"] = None
    id_token: Annotated[bool, "answers name the account in an ID token (not signed) only"] = False
    login_without_refresh_token: Annotated[bool, "the exchange of a code or a device code gives none"] = False
    rotation: Annotated[bool, "off: a refresh answers with the same refresh token, which stays good"] = True
    omit_refresh_token: Annotated[bool, "a refresh answers without one; what was sent stays good (RFC 6749 6)"] = False
    replay_revokes_family: Annotated[bool, "a replayed refresh token kills its family's tokens (RFC 9700 4.14.2)"] = (
        False
    )
    rotation_grace: Annotated[Seconds, "for this long after its use, a refresh token may be used again"] = 0
    refresh_kills_access_tokens: Annotated[bool, "a refresh kills the access tokens issued before"] = False
    state_required: Annotated[bool, "the code exchange must carry state, which RFC 6749 does not know"] = False
    assertions_once: Annotated[bool, "an assertion is good for one exchange, also if its answer was lost"] = False
    federation_rejection_status: Annotated[Literal[400, 401], "for a refused assertion; RFC 7523 3.1 says 400"] = 400

    # --- logging in with a device code -------------------------------------------------------------------------

    device_interval: Annotated[Seconds, "how far apart the client's questions have to be"] = 5
    device_code_lifetime: Annotated[Count, "for so long the person may decide, and the client may ask"] = 1800
    device_slow_downs: Annotated[Count, "the next N questions are too early, whenever they come"] = 0

    # --- API: who may, and how much ----------------------------------------------------------------------------

    revoked: Annotated[bool, "403 as for a withdrawn grant; refreshes still work (see the command revoke-grants)"] = (
        False
    )
    scope_missing: Annotated[bool, "403 for a scope that the token has not: the request's fault"] = False
    forbidden_model: Annotated[str | None, "403 for this model, which the account may not use"] = None
    limit_headers: Annotated[
        Literal["all", "aggregate", "windows", "none"],
        "limit headers on 200 and 429; with none, a 429 has no retry-after either",
    ] = "all"
    overage_status: Annotated[Status | None, "adds the overage headers, rejected with the reason why"] = None
    fallback_percentage: Annotated[Fraction | None, "adds the header of this name"] = None
    utilization_per_request: Annotated[float, "of the 5h and 7d windows; at 1 the account is exhausted"] = 0
    rate_limited: Annotated[Count | None, "429 with per-minute headers (RFC 3339 resets) and this retry-after"] = None
    api_failures: Annotated[Count, "answer the next N API requests with api_failure_status"] = 0
    api_failure_status: Annotated[
        Literal[400, 401, 402, 403, 404, 413, 429, 500, 502, 503, 504, 529], "see api_failures"
    ] = 529
    api_failure_message: Annotated[str | None, "instead of the usual words"] = None
    api_failure_retry_after: Annotated[Count | None, "goes with api_failures, whatever the status"] = None
    max_body_bytes: Annotated[Count, "413 beyond (the default is the API's own limit)"] = 32 * 1024 * 1024
    errors_from_edge: Annotated[bool, "api_failures and 413 are HTML, from the edge and not from the API"] = False
    redirect_location: Annotated[str | None, "answer API requests with a redirect to this URL"] = None
    redirect_status: Annotated[Literal[301, 302, 303, 307, 308], "see redirect_location"] = 307

    # --- API: what is answered ---------------------------------------------------------------------------------

    reply: Annotated[str | None, "every message's text, not the account's name and the question"] = None
    calls_tools: Annotated[bool, "with tool_choice auto, call the first tool (any and tool always call)"] = False
    cache_creation_tokens: Annotated[Count, "in usage; message_start knows half of them, message_delta all"] = 0
    cache_read_tokens: Annotated[Count, "as cache_creation_tokens"] = 0

    # --- API: how the answer comes -----------------------------------------------------------------------------

    headers_delay: Annotated[Seconds, "wait before the status line"] = 0
    gzip: Annotated[bool, "compress for clients that accept gzip"] = False
    json_cut_after: Annotated[Count | None, "cut the connection after N bytes of a JSON answer's body"] = None
    json_chunked: Annotated[bool, "no JSON answer has a content-length"] = False
    event_delay: Annotated[Seconds, "between two events of a stream"] = 0
    chunk_bytes: Annotated[Positive | None, "cut a stream in pieces of this size, events and characters too"] = None
    stream_stall_after: Annotated[Position | None, "POSITION: fall silent"] = None
    stream_stall_seconds: Annotated[Seconds | None, "how long; for ever without it"] = None
    stream_cut_after: Annotated[Position | None, "POSITION: cut the connection"] = None
    stream_end_after: Annotated[Position | None, "POSITION: end the answer as if it were complete"] = None
    stream_error_after: Annotated[Position | None, "POSITION: send an error event and end (0: it is the first)"] = None
    stream_error_type: Annotated[
        Literal["api_error", "overloaded_error", "rate_limit_error"], "see stream_error_after"
    ] = "overloaded_error"
    stream_pings_only: Annotated[bool, "nothing but pings, event_delay apart, until the client leaves"] = False


NAMES = tuple(Switches.__struct_fields__)
_DEFAULTS = Switches()


def describe() -> str:
    """One line a switch for `--help`: name, default as JSON, description, what may be chosen."""
    lines = []
    for name, hint in get_type_hints(Switches, include_extras=True).items():
        kind, *notes = get_args(hint)
        description = next(note for note in notes if isinstance(note, str))
        lines.append(f"  {name:<27} {json.dumps(getattr(_DEFAULTS, name)):<18} {description}{_choices(kind)}")
    return "\n".join(lines)


def _choices(kind: Any) -> str:
    """The values of a Literal, alone or beside None."""
    literal = next((part for part in (kind, *get_args(kind)) if get_origin(part) is Literal), None)
    # those of a position are said once, for all
    return "" if literal is None or literal == get_args(Position)[1] else f": {', '.join(map(str, get_args(literal)))}"


class SwitchError(ValueError):
    """An unknown switch or a value that it cannot have; the text is for whoever set it."""


class SwitchBoard:
    """The switches as they stand, for everybody and for single accounts. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._for_all: dict[str, Any] = {}
        self._for_one: dict[str, dict[str, Any]] = {}

    def get(self, subject: str | None = None) -> Switches:
        """What holds now, for the account if one is given."""
        with self._lock:
            return _checked({**self._for_all, **self._of_one(subject)})

    def set(self, subject: str | None = None, /, **changes: Any) -> Switches:
        """Change some switches, all or none of them; None puts one back to what held before it was set.

        Raises `SwitchError`, which for an unknown name lists the known ones.
        """
        unknown = sorted(set(changes) - set(NAMES))
        if unknown:
            raise SwitchError(f"unknown switch {unknown[0]!r}; known are {', '.join(NAMES)}")
        with self._lock:
            layer = self._for_all if subject is None else self._of_one(subject)
            changed = {name: value for name, value in {**layer, **changes}.items() if value is not None}
            checked = _checked(changed)
            layer = {name: getattr(checked, name) for name in changed}
            if subject is None:
                self._for_all = layer
            else:
                self._for_one[subject] = layer
        return self.get(subject)

    def reset(self, subject: str | None = None) -> None:
        """Undo what was set for one account; without one, everything for everybody."""
        with self._lock:
            if subject is None:
                self._for_all = {}
                self._for_one = {}
            else:
                self._for_one.pop(subject, None)

    def overrides(self, subject: str) -> dict[str, Any]:
        """What was set for this account alone."""
        with self._lock:
            return dict(self._of_one(subject))

    def spend(self, name: str, subject: str | None = None) -> bool:
        """Whether a "next N requests" switch was still above 0; it is counted down where it was set."""
        with self._lock:
            one = self._of_one(subject)
            layer = one if name in one else self._for_all
            left: int = layer.get(name, getattr(_DEFAULTS, name))
            if left <= 0:
                return False
            layer[name] = left - 1
            return True

    def _of_one(self, subject: str | None) -> dict[str, Any]:
        return {} if subject is None else self._for_one.get(subject, {})


def _checked(values: dict[str, Any]) -> Switches:
    try:
        return msgspec.convert(values, Switches)
    except msgspec.ValidationError as error:
        raise SwitchError(str(error)) from None
