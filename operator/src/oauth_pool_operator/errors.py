"""What can go wrong, typed by what should happen next.

Every message here may end in a condition, an Event or a log line, so it names the account's parts and the remote
side's error word, never a body, a token, a code or a URL with a query.
"""

from datetime import datetime, timedelta


class ConfigError(Exception):
    """The configuration file cannot be used; the text is one line that says what, where and what is allowed."""


class TokenEndpointUnavailable(Exception):
    """Transient: the token endpoint did not answer, was cut off, answered 429 or 5xx, or something else answered in its
    place (a firewall's page has no OAuth error). Try again later; a code is still good.

    With `may_be_done`, the request may have been carried out although no answer came: a refresh token may be spent.
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
    """The provider asked us to wait, perhaps for another account; nothing was sent."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__("the provider asked us to wait", may_be_done=False, retry_after=wait)
        self.is_throttled = False  # it is the one wait, not one more


class NotInCharge(Exception):
    """This operator must not begin anything: it is shutting down, or another operator works."""


class CalledOff(Exception):
    """It is no longer wanted, and nothing was sent; or it ended some other way than with a token."""


class GrantRejected(Exception):
    """`invalid_grant` (RFC 6749 5.2), or a provider's other error for it: the code or refresh token is dead; only a new
    login helps."""


class ExchangeRejected(Exception):
    """Any other refusal by the token endpoint (RFC 6749 5.2): a configuration mistake, or a dead grant with an unknown
    error (`may_be_the_grant`)."""

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
    """The person has not yet decided about a device login (RFC 8628 3.5): ask again, less often if `slow_down`."""

    def __init__(self, *, slow_down: bool) -> None:
        super().__init__("slow_down" if slow_down else "authorization_pending")
        self.slow_down = slow_down


class AuthorizationEnded(Exception):
    """A device login has failed (RFC 8628 3.5): the person declined, or was too late (`has_expired`)."""

    def __init__(self, *, has_expired: bool) -> None:
        super().__init__("expired_token" if has_expired else "access_denied")
        self.has_expired = has_expired


class SubjectMismatch(Exception):
    """The wrong person logged in; their grant is not used."""


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
    """The ConfigMaps have no room for an account's access token, sealed to every proxy. Some proxies may still have it."""

    def __init__(self, message: str, *, nobody_has_it: bool) -> None:
        super().__init__(message)
        self.nobody_has_it = nobody_has_it


class ClusterUnavailable(Exception):
    """The API server did not take the index or the status. Tokens are still refreshed: `next_check` says when."""

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
    """For a person. Our own errors' texts are meant to be read; those of others may quote what was received."""
    return str(error) if isinstance(error, _OURS) else f"unexpected {type(error).__name__}"
