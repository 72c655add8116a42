"""Benches accounts for as long as their answers say, logs it, and reports news to the operator."""

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from oauth_pool_proxy.config import Verdict
from oauth_pool_proxy.observe.metrics import Metrics
from oauth_pool_proxy.pool.account import REJECTION_SECONDS, AccessToken, Account, Reason
from oauth_pool_proxy.pool.judgement import Judgement
from oauth_pool_proxy.request import Request

if TYPE_CHECKING:
    from oauth_pool_proxy.pool.reports import StatusReporter

log = logging.getLogger(__name__)

_REASONS = {
    Verdict.QUOTA_EXHAUSTED: Reason.QUOTA_EXHAUSTED,
    Verdict.RATE_LIMITED: Reason.RATE_LIMITED,
    Verdict.UNAUTHORIZED: Reason.UNAUTHORIZED,
    Verdict.FORBIDDEN: Reason.FORBIDDEN,
    Verdict.BILLING: Reason.BILLING,
}


class Bench:
    """`cooldown` is in seconds, for accounts that specify none. Without a reporter, only this proxy knows."""

    def __init__(
        self, cooldown: float, reporter: "StatusReporter | None", metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._cooldown, self._reporter, self._metrics, self._clock = cooldown, reporter, metrics, clock

    def judged(self, account: Account, token: AccessToken, judgement: Judgement, request: Request) -> None:
        """Remember what the answer to this token says about the account. A verdict that benches no account does nothing."""
        verdict = judgement.verdict
        if verdict in (Verdict.MODEL_LIMITED, Verdict.MODEL_FORBIDDEN):
            self._for_model(account, judgement, request)
        elif verdict in (Verdict.QUOTA_EXHAUSTED, Verdict.RATE_LIMITED):
            self._cool_down(account, token, judgement, request)
        elif verdict in _REASONS:
            self._reject(account, token, judgement, request)

    def _for_model(self, account: Account, judgement: Judgement, request: Request) -> None:
        description = request.describe()
        if not description or not description.model:
            return
        now = self._clock()
        until = judgement.until or now + self._longest(account)
        if judgement.verdict is Verdict.MODEL_FORBIDDEN:
            is_news = account.refuse_model(description.model, until, now)
        else:
            is_news = account.limit_model(description.model, until, now)
        if is_news:
            self._tell(account, "".join(map(str.capitalize, judgement.verdict.split("_"))), until - now, request)

    def _cool_down(self, account: Account, token: AccessToken, judgement: Judgement, request: Request) -> None:
        reason, until, now = _REASONS[judgement.verdict], judgement.until, self._clock()
        if judgement.verdict is Verdict.QUOTA_EXHAUSTED:
            # The jitter keeps a fleet of proxies from coming back in the same second.
            until = (until or now + self._longest(account)) + random.uniform(1, 30)
        else:
            until = until or now + 1
        if not account.cool_down(reason, until, now):
            return
        if judgement.verdict is Verdict.QUOTA_EXHAUSTED:
            self._metrics.quota_exhausted(account.name)
        self._tell(account, reason.value, until - now, request)
        self._report(account, reason, until, token, judgement)

    def _reject(self, account: Account, token: AccessToken, judgement: Judgement, request: Request) -> None:
        """Bench until a newer access token comes, or for a while. If the verdict has an end, a newer one would not help."""
        reason, now = _REASONS[judgement.verdict], self._clock()
        seconds = judgement.until - now if judgement.until else REJECTION_SECONDS
        if account.reject(reason, token.generation, now, seconds):
            self._tell(account, reason.value, seconds, request)
            self._report(account, reason, judgement.until, token, judgement)

    def _longest(self, account: Account) -> float:
        return account.entry.cooldown_seconds or self._cooldown

    def _tell(self, account: Account, reason: str, seconds: float, request: Request) -> None:
        fields = {"request_id": request.id, "account": account.name, "reason": reason, "seconds": round(seconds)}
        log.warning("account benched", extra={"fields": fields})
        self._metrics.benched(account.name, reason)

    def _report(
        self, account: Account, reason: Reason, until: float | None, token: AccessToken, judgement: Judgement
    ) -> None:
        if self._reporter:
            self._reporter.benched(account, reason, until, token.generation, judgement.windows, self._clock())
