"""What can go wrong, typed by what should happen next.

Every message here may end in a condition, an Event or a log line, so it names the account's parts and the remote
side's error word, never a body, a token, a code or a URL with a query.
"""

from datetime import datetime, timedelta


class ConfigError(Exception):
    """The configuration file cannot be used; the text is one line that says what, where and what is allowed."""


class TokenEndpointUnavailable(Exception):
    """Transient: the token endpoint did not answer, was cut off, answered 429 or 5xx, or something else answered in its
    place (a firewall's page has no OAuth error). Try again later; a code is as good as before.

    With `may_be_done`, the request may have been carried out although no answer came: a refresh token may be redeemed.
    """

    def __init__(
        self, what: str, *, may_be_done: bool, retry_after: timedelta | None = None, is_throttled: bool = False
    ) -> None:
        super().__init__(what)
        self.may_be_done = may_be_done
        self.retry_after = retry_after
        # the provider has had enough of us, not of this account: 429, or an answer that says when to come back
        self.is_throttled = is_throttled or retry_after is not None


class ProviderHeld(TokenEndpointUnavailable):
    """The provider has told us to wait, be it about another account; nothing was sent."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__("the provider has asked us to wait", may_be_done=False, retry_after=wait)
        self.is_throttled = False  # it is the one wait, not one more


class NotInCharge(Exception):
    """This operator must not begin anything: it is ending, or another one works."""


class CalledOff(Exception):
    """Nobody wants it any more, and nothing was asked for; or it has come to its end in another way than by a token."""


class GrantRejected(Exception):
    """`invalid_grant` (RFC 6749 5.2), or what other words a provider has for it: the code or refresh token is dead; only a
    new login helps."""


class ExchangeRejected(Exception):
    """Any other refusal of the token endpoint (RFC 6749 5.2): a configuration mistake, or a dead grant in words that
    nobody knows (`may_be_the_grant`)."""

    def __init__(self, message: str, *, word: str = "") -> None:
        super().__init__(message)
        self.word = word  # the endpoint's own, if it is a known one

    @property
    def may_be_the_grant(self) -> bool:
        """The refusal does not say that the client is at fault. `invalid_request` is what some say of a dead grant."""
        return self.word in ("", "invalid_request", "invalid_request_error")


class UnusableAnswer(ExchangeRejected):
    """Tokens were granted, but the access token cannot be used.

    `refresh_token`, if there is one, replaces the one that was sent, which is spent: store it before anything else.
    """

    def __init__(self, message: str, *, refresh_token: str | None) -> None:
        super().__init__(message, word="unusable")
        self.refresh_token = refresh_token


class AuthorizationPending(Exception):
    """The person has not decided yet about a device's login (RFC 8628 3.5): ask again, later if `slow_down`."""

    def __init__(self, *, slow_down: bool) -> None:
        super().__init__("slow_down" if slow_down else "authorization_pending")
        self.slow_down = slow_down


class AuthorizationEnded(Exception):
    """A device's login will come to nothing (RFC 8628 3.5): the person said no, or was not in time (`has_expired`)."""

    def __init__(self, *, has_expired: bool) -> None:
        super().__init__("expired_token" if has_expired else "access_denied")
        self.has_expired = has_expired


class SubjectMismatch(Exception):
    """Somebody logged in whom the account is not for; what they were granted is not used."""


class ServiceAccountTokenRefused(Exception):
    """The API server gave no token for the ServiceAccount: it does not exist, or the operator may not ask."""


class StoreFailed(Exception):
    """The state or access volume could not be read or written."""


class StoreCorrupt(StoreFailed):
    """A file is there but is not what was written."""


class StoreConflict(Exception):
    """Somebody else wrote a newer credential since it was read."""


class IndexFull(Exception):
    """The pool index has no room for one more account; somebody has to delete some, or run a second pool."""


class TokensFull(Exception):
    """The ConfigMaps have no room for an account's access token, sealed to every proxy. Some may have it all the same."""

    def __init__(self, message: str, *, nobody_has_it: bool) -> None:
        super().__init__(message)
        self.nobody_has_it = nobody_has_it


class ClusterUnavailable(Exception):
    """The API server did not take the index or the status. Tokens are refreshed all the same: `next_check` says when."""

    def __init__(self, next_check: datetime) -> None:
        super().__init__("the API server did not take the index or the status")
        self.next_check = next_check


_OURS = (
    TokenEndpointUnavailable,
    ExchangeRejected,
    GrantRejected,
    ServiceAccountTokenRefused,
    StoreFailed,
    StoreConflict,
    SubjectMismatch,
)


def text_of(error: Exception) -> str:
    """For a person. Our own errors' texts are made to be read; those of others may quote what was received."""
    return str(error) if isinstance(error, _OURS) else f"unexpected {type(error).__name__}"
