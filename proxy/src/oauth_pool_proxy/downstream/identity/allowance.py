"""What a rule allows its clients, prepared for a fast check on every request. Pure."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase, translate
from functools import lru_cache

from oauth_pool_proxy.config import ClientRule
from oauth_pool_proxy.downstream.line import Turn
from oauth_pool_proxy.downstream.paths import Paths
from oauth_pool_proxy.errors import ClientLimited, NotPermitted

_EVERYTHING = ClientRule(("*",))
_MOST_MODEL_CHARACTERS = 200
_MOST_WRITTEN = 100
_ROUNDING = 1e-6
"""The rounding error, in seconds, allowed in sums of fractions of a minute."""


class Allowance:
    """What one rule allows. The default allows everything, for clients that match no rule."""

    def __init__(self, rule: ClientRule = _EVERYTHING) -> None:
        self.rule = rule
        self.limits_models = rule.limits_models
        self.admits_path = Paths(rule.denied_paths, rule.paths).admit if not rule.deny else _nothing
        self._models, self._denied_models = _pattern(rule.models), _pattern(rule.denied_models)
        self._allows_model = lru_cache(256)(self._look_at_model)
        self._allowed_as_written: set[bytes] = set()
        """Raw JSON values of `model` known to be allowed. Their number is limited: clients use few models."""

    def refusal(self) -> NotPermitted:
        """The error for a path that is not allowed."""
        if self.rule.deny:
            return NotPermitted("A rule of the proxy's configuration keeps this client out")
        return NotPermitted("This client may not ask for this path: a rule of the proxy's configuration leaves it out")

    def has_allowed(self, written: bytes) -> bool:
        """Whether this raw JSON value of `model` is known to be allowed."""
        return written in self._allowed_as_written

    def note_allowed(self, written: bytes) -> None:
        if len(self._allowed_as_written) < _MOST_WRITTEN:
            self._allowed_as_written.add(written)

    def check_models(self, models: Iterable[str] | None) -> None:
        """Raise `NotPermitted` if a model is not allowed. `models` is None if they cannot be read from the request."""
        if models is None:
            raise NotPermitted("This client may ask for some models only, and the request is not JSON that names one")
        for model in models:
            if len(model) > _MOST_MODEL_CHARACTERS or not self._allows_model(model.lower()):
                raise NotPermitted(
                    "This client may not use this model: a rule of the proxy's configuration leaves it out"
                )

    def _look_at_model(self, model: str) -> bool:
        if self._denied_models and self._denied_models.fullmatch(model):
            return False
        return self._models is None or self._models.fullmatch(model) is not None


class Allowances:
    """The rules, in order."""

    def __init__(self, rules: Sequence[ClientRule]) -> None:
        self._allowances = [Allowance(rule) for rule in rules]
        self._none = Allowance()

    def of(self, name: str) -> Allowance:
        """The allowance from the first matching rule."""
        for allowance in self._allowances:
            if any(fnmatchcase(name, glob) for glob in allowance.rule.match):
                return allowance
        return self._none


class Caller:
    """One client: its name, what it may do, and how much of that it uses now.

    Its limits apply per proxy: each proxy counts for itself.
    """

    __slots__ = (
        "_admits_path",
        "_full_at",
        "_most",
        "_per_minute",
        "_seconds",
        "accounts",
        "allowance",
        "in_flight",
        "is_stranger",
        "name",
        "turn",
    )

    def __init__(self, name: str, allowance: Allowance, *, is_stranger: bool = False) -> None:
        self.name, self.allowance, self.is_stranger = name, allowance, is_stranger
        self.turn = Turn(name, allowance.rule.priority)
        """Its place in line."""
        self._admits_path = allowance.admits_path
        self._most, self._per_minute = allowance.rule.max_concurrent_requests, allowance.rule.requests_per_minute
        self._seconds = 60 / self._per_minute if self._per_minute else None
        """The average interval between two requests."""
        self.accounts = allowance.rule.accounts
        """The accounts that it may use. None: all."""
        self.in_flight = 0
        self._full_at = 0.0
        """When its request bucket will be full again. That is the bucket's whole state (GCRA)."""

    def __repr__(self) -> str:
        return f"<Caller {self.name}>"

    def begin(self, path: str, now: float) -> None:
        """Begin one more request, until `end`. Raises `NotPermitted` or `ClientLimited` if it may not begin.

        `now` is in seconds and never goes back.
        """
        if not self._admits_path(path):
            raise self.allowance.refusal()
        if self._most is not None and self.in_flight >= self._most:
            raise ClientLimited(
                f"This client has {self._most} requests under way, which is all it may have at once", retry_after=1
            )
        if self._seconds is not None:
            full_at = self._full_at
            full_at = (max(now, full_at)) + self._seconds
            if full_at > now + 60 + _ROUNDING:
                raise ClientLimited(
                    f"This client has asked as often as it may: {self._per_minute} requests a minute",
                    retry_after=full_at - now - 60,
                )
            self._full_at = full_at
        self.in_flight += 1

    def end(self) -> None:
        self.in_flight -= 1


def _nothing(_: str) -> bool:
    return False


def _pattern(globs: tuple[str, ...]) -> re.Pattern[str] | None:
    """Ignores case: it is not known here whether the upstream does."""
    return re.compile("|".join(translate(glob.lower()) for glob in globs)) if globs else None
