"""What the clients of a rule may, made ready to be asked for every request. Pure."""

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
"""Seconds that sums of fractions of a minute may be off."""


class Allowance:
    """Everything, for those whom no rule matches."""

    def __init__(self, rule: ClientRule = _EVERYTHING) -> None:
        self.rule = rule
        self.limits_models = rule.limits_models
        self.admits_path = Paths(rule.denied_paths, rule.paths).admit if not rule.deny else _nothing
        self._models, self._denied_models = _pattern(rule.models), _pattern(rule.denied_models)
        self._allows_model = lru_cache(256)(self._look_at_model)
        self._allowed_as_written: set[bytes] = set()
        """Some of the values of `model`, as JSON writes them, that have been found to be allowed. Clients ask for few models."""

    def refusal(self) -> NotPermitted:
        """For a path that is not admitted."""
        if self.rule.deny:
            return NotPermitted("A rule of the proxy's configuration keeps this client out")
        return NotPermitted("This client may not ask for this path: a rule of the proxy's configuration leaves it out")

    def has_allowed(self, written: bytes) -> bool:
        """Whether this value of `model`, as JSON writes it, is known to be allowed."""
        return written in self._allowed_as_written

    def note_allowed(self, written: bytes) -> None:
        if len(self._allowed_as_written) < _MOST_WRITTEN:
            self._allowed_as_written.add(written)

    def check_models(self, models: Iterable[str] | None) -> None:
        """Raises `NotPermitted`. None: the models cannot be read from the request."""
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
    """The rules, in their order."""

    def __init__(self, rules: Sequence[ClientRule]) -> None:
        self._allowances = [Allowance(rule) for rule in rules]
        self._none = Allowance()

    def of(self, name: str) -> Allowance:
        """What the first rule that matches gives."""
        for allowance in self._allowances:
            if any(fnmatchcase(name, glob) for glob in allowance.rule.match):
                return allowance
        return self._none


class Caller:
    """One client: its name, what it may, and how much of that it is using now.

    Its limits are this proxy's: another one counts for itself.
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
        """Between two requests, on average."""
        self.accounts = allowance.rule.accounts
        """Which it may have; none: all."""
        self.in_flight = 0
        self._full_at = 0.0
        """When its bucket of requests is full again: the whole state of it (the GCRA way of counting)."""

    def __repr__(self) -> str:
        return f"<Caller {self.name}>"

    def begin(self, path: str, now: float) -> None:
        """One more request, until `end`; raises `NotPermitted` or `ClientLimited` if it may not begin.

        `now` is in seconds, and never goes back.
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
    """Upper and lower case are the same: whether they are to the upstream is not known here."""
    return re.compile("|".join(translate(glob.lower()) for glob in globs)) if globs else None
