"""What the operator remembers about an account between reconciles. `Waits` survives a restart, the rest may be lost."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from oauth_pool_operator.account.backoff import Backoff
from oauth_pool_operator.account.documents import Wait, Waits
from oauth_pool_operator.account.spec import rfc3339
from oauth_pool_operator.account.trouble import Subject, Trouble

# Those whose next try may not come sooner because the operator was started anew.
_KEPT = (Subject.REFRESH, Subject.LOGIN, Subject.CLUSTER, Subject.REVOCATION)


@dataclass(slots=True)
class Attempts(Backoff):
    """Of one subject: the backoff, and the trouble that it is in."""

    trouble: Trouble | None = None

    def holds_back(self, now: datetime) -> Trouble | None:
        """The last failure, for as long as its time to try again has not come."""
        return self.trouble if self.is_on(now) else None

    def failed(
        self,
        reason: str,
        error: object,
        now: datetime,
        *,
        is_stalled: bool,
        at_least: timedelta = timedelta(0),
        latest: datetime | None = None,
        is_held: bool = False,
    ) -> Trouble:
        """Remember a failure, and when the next try is due."""
        if (held := self.holds_back(now)) is not None and held.reason == reason:
            return held  # looked at early, because something else happened: not another try
        retry_at = self.put_off(now, at_least=at_least, latest=latest)
        message = f"{error}; next try at {rfc3339(retry_at)}"
        self.trouble = Trouble(reason, message, retry_at, is_stalled, is_held)
        return self.trouble

    def succeeded(self) -> None:
        self.reset()
        self.trouble = None


@dataclass(slots=True)
class Memory:
    """Of one account."""

    generation: int = 0  # of the spec that was looked at last
    attempts: dict[Subject, Attempts] = field(default_factory=lambda: {subject: Attempts() for subject in Subject})
    last_forced_refresh: datetime | None = None
    doubted: str = ""  # fingerprint of the refresh token that was answered with `invalid_grant`, once so far
    refusals: int = 0  # in a row, in words that nobody knows
    refused_since: datetime | None = None
    handled_refresh: str = ""  # the request that has been done, for as long as status does not say so
    begin: Backoff = field(
        default_factory=lambda: Backoff(longest=timedelta(seconds=5))
    )  # after one that might not begin
    removal_began: float | None = None
    may_have_rescued: bool = True  # a token that could not take its place may be beside the credential
    saved: Waits | None = None  # as last written; None before it was read
    # when the provider is asked next whether a person has decided about a device's login, and about which
    next_poll: datetime | None = None
    polled: str = ""
    reserved: str = ""  # the session for whose answer there is room on the disk

    def __getitem__(self, subject: Subject) -> Attempts:
        return self.attempts[subject]

    def troubles(self) -> dict[Subject, Trouble]:
        """What has failed and not yet worked."""
        return {subject: one.trouble for subject, one in self.attempts.items() if one.trouble is not None}

    def try_anew(self) -> None:
        """What failed before may work now."""
        for one in self.attempts.values():
            one.succeeded()
        self.doubted, self.refusals, self.refused_since = "", 0, None

    def refused(self, now: datetime) -> None:
        """A refresh was refused in no known words, once more."""
        self.refusals += 1
        self.refused_since = self.refused_since or now

    def waits(self) -> Waits:
        return Waits(
            generation=self.generation,
            by_subject={subject.value: wait for subject in _KEPT if (wait := _wait(self[subject])) is not None},
            last_forced_refresh=self.last_forced_refresh,
            doubted=self.doubted,
            refusals=self.refusals,
            refused_since=self.refused_since,
        )

    def restore(self, waits: Waits) -> None:
        """Continue where the operator stood before the restart."""
        self.saved, self.generation = waits, waits.generation
        self.last_forced_refresh, self.doubted = waits.last_forced_refresh, waits.doubted
        self.refusals, self.refused_since = waits.refusals, waits.refused_since
        for subject in _KEPT:
            if (wait := waits.by_subject.get(subject.value)) is not None:
                trouble = Trouble(wait.reason, wait.message, wait.retry_at, wait.is_stalled, wait.is_held)
                self.attempts[subject] = Attempts(
                    failures=wait.failures, since=wait.since, retry_at=wait.retry_at, trouble=trouble
                )


def _wait(one: Attempts) -> Wait | None:
    trouble = one.trouble
    if trouble is None or one.since is None:
        return None
    return Wait(
        one.failures, one.since, trouble.retry_at, trouble.reason, trouble.message, trouble.is_stalled, trouble.is_held
    )
