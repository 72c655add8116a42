"""What pool mode adds to a request: which account it should have, and what the account's answer says for the others."""

from dataclasses import dataclass

from oauth_pool_proxy.config import OAuthConfig
from oauth_pool_proxy.pool.affinity import Affinity, key_of
from oauth_pool_proxy.pool.pool import Account, Pool, Requirements
from oauth_pool_proxy.pool.reports import StatusReporter
from oauth_pool_proxy.pool.request_body import with_system_prefix
from oauth_pool_proxy.pool.token_files import TokenFiles
from oauth_pool_proxy.request import Request


@dataclass(frozen=True, slots=True)
class PoolMode:
    """The accounts, their access tokens, and somebody to tell, if anybody listens."""

    config: OAuthConfig
    pool: Pool
    tokens: TokenFiles
    affinity: Affinity
    reporter: StatusReporter | None

    @property
    def cooldown(self) -> float:
        return self.config.cooldown

    @property
    def reads_usage(self) -> bool:
        return self.config.usage_metrics

    def read(self, request: Request) -> None:
        """Find out what the body says about the choice of an account, and put the configured prefix into it."""
        if self.config.affinity and request.body:
            request.conversation = key_of(request.headers, request.describe)
        if self.config.system_prefix:
            request.body = with_system_prefix(
                request.body, self.config.system_prefix, self.config.system_prefix_excluded_models
            )

    def requirements(self, request: Request) -> Requirements:
        """What the request needs of an account. Its model matters only while some account is limited for some model."""
        if self.pool.limits_models:
            request.describe()
        return Requirements(request.model, request.tried, request.conversation)

    def pick(self, request: Request, requirements: Requirements, now: float) -> Account | None:
        """The account whose prompt cache is warm for this conversation, or whoever the pool names."""
        if request.conversation:
            uid = self.affinity.account_for(
                request.conversation, now, lambda uid: self.pool.may_pick(uid, now, requirements)
            )
            if uid is not None:
                return self.pool.account(uid)
        return self.pool.pick(now, requirements)
