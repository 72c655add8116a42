"""Everything that can be made to go wrong, and for whom.

A switch is one field of `Switches`: adding one means adding the field here and reading it where it matters. Every
switch may be set for all accounts or for one; what is set for one account wins.
"""

import threading
from typing import Annotated, Any, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Switches(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The provider's behaviour; the defaults are those of a healthy one. Times are seconds."""

    # --- token endpoint: delays and failures -------------------------------------------------------------------

    # wait this long before anything is redeemed
    token_delay: Seconds = 0
    # answer the next N requests with `token_failure_status` (`token_failure_retry_after` goes with a 429 or 503)
    token_failures: Count = 0
    token_failure_status: Literal[400, 401, 403, 429, 500, 502, 503, 529] = 500
    token_failure_retry_after: Count | None = 30
    # the failure comes after the code or refresh token was redeemed
    token_failure_after_redeem: bool = False
    # cut the connection of the next N requests, before or after the code or refresh token was redeemed
    token_drops_before_redeem: Count = 0
    token_drops_after_redeem: Count = 0

    # --- token endpoint: what is issued ------------------------------------------------------------------------

    # instead of 28800 (code and refresh) or the federation rule's lifetime
    expires_in: Count | None = None
    # access tokens issued from now on die this soon, whatever `expires_in` says
    access_token_dies_after: Seconds | None = None
    # off: a refresh answers with the same refresh token, which stays good
    rotation: bool = True
    # no `refresh_token` in the answer to a refresh; the one that was sent stays good (RFC 6749 6)
    omit_refresh_token: bool = False
    # a replayed refresh token also kills the tokens of its family (RFC 9700 4.14.2)
    replay_revokes_family: bool = False
    # for this long after its use, a refresh token may be used again
    rotation_grace: Seconds = 0
    # a refresh kills the access tokens issued before
    refresh_kills_access_tokens: bool = False
    # the code exchange must carry `state`, which RFC 6749 does not know
    state_required: bool = False
    # what a refused assertion is answered with (RFC 7523 3.1 says 400)
    federation_rejection_status: Literal[400, 401] = 400

    # --- logging in with a device code -------------------------------------------------------------------------

    # how often the client may ask, and for how long
    device_interval: Seconds = 5
    device_code_lifetime: Count = 1800
    # the next N questions are too early, whenever they come
    device_slow_downs: Count = 0

    # --- API: who may, and how much ----------------------------------------------------------------------------

    # 403, as for an account whose grant was withdrawn; refreshes still work (see the command `revoke-grant`)
    revoked: bool = False
    # 403 for a scope that the token has not: the request's fault, not the account's
    scope_missing: bool = False
    # which limit headers are sent on 200 and 429; without any, a 429 has no `retry-after` either
    limit_headers: Literal["all", "aggregate", "windows", "none"] = "all"
    # each message uses up this share of the 5 h and 7 d windows; at 1 the account is exhausted
    utilization_per_request: float = 0
    # 429 with the per-minute headers of API organisations, and this `retry-after`
    rate_limited: Count | None = None
    # answer the next N API requests with `api_failure_status`
    api_failures: Count = 0
    api_failure_status: Literal[400, 402, 413, 500, 502, 503, 504, 529] = 529
    api_failure_retry_after: Count | None = None
    # 413 beyond (the API's own limit)
    max_body_bytes: Count = 32 * 1024 * 1024

    # --- API: how the answer comes -----------------------------------------------------------------------------

    # the text of every message, instead of the one that names the account and echoes the question
    reply: str | None = None
    # wait before the status line
    headers_delay: Seconds = 0
    # compress when the client accepts gzip
    gzip: bool = False
    # between two events of a stream
    event_delay: Seconds = 0
    # cut the bytes of a stream in pieces of this size, wherever that splits an event or a character
    chunk_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    # after N events: fall silent (for ever, or for `stream_stall_seconds`), cut the connection, end the answer as
    # if it were complete, or send an error event (0: as the first one) and end
    stream_stall_after: Count | None = None
    stream_stall_seconds: Seconds | None = None
    stream_cut_after: Count | None = None
    stream_end_after: Count | None = None
    stream_error_after: Count | None = None
    # nothing but pings, `event_delay` apart, until the client leaves
    stream_pings_only: bool = False


NAMES = tuple(Switches.__struct_fields__)
_DEFAULTS = Switches()


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
