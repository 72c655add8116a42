"""The ways to begin a rotation: what each asks the provider for, and the credential that the answer becomes.

None acts on its own. The rotation decides when to ask and for how long, and stores the answer.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import ClassVar

import httpx2
import msgspec

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.documents import Credential, Journal, LoginSession, fingerprint
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.policies import next_generation
from oauth_pool_operator.account.spec import WorkloadIdentity
from oauth_pool_operator.account.trouble import Subject
from oauth_pool_operator.cluster.answers import describe
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.errors import ExchangeRejected, SubjectMismatch, TokenEndpointUnavailable
from oauth_pool_operator.oauth import login
from oauth_pool_operator.oauth.answer import DeviceAuthorization, TokenAnswer
from oauth_pool_operator.oauth.endpoint import TokenEndpoint


@dataclass
class Beginning:
    """One request to the provider. `subject` is what is in trouble if it fails."""

    facts: Facts

    subject: ClassVar[Subject] = Subject.LOGIN
    waiting: ClassVar[str] = c.EXCHANGING  # the reason of the trouble while the provider does not answer
    is_counted: ClassVar[bool] = True  # as a request for a token

    @property
    def first_retry(self) -> timedelta:
        """How soon it is tried again, the first time."""
        return timedelta(seconds=1)

    @property
    def reserves(self) -> str:
        """What the room on the disk is for: for the same thing, it is not reserved twice in a row. Empty: for this time."""
        return ""

    def journal(self, now: datetime) -> Journal | None:
        """What has to be known if the answer is lost: that a token may be spent."""
        return None

    async def prepare(self) -> None:
        """What takes time and can be had before the request."""

    async def ask(self, endpoint: TokenEndpoint) -> TokenAnswer | DeviceAuthorization | None:
        """The one request; None for an answer that says no more than that it is done."""
        raise NotImplementedError

    async def demand(self, answer: TokenAnswer, endpoint: TokenEndpoint) -> None:
        """Raises what speaks against keeping the answer."""

    def credential(self, answer: TokenAnswer, asked: datetime) -> Credential:
        """What is to be stored. A token's life is counted from before the request, so that it never seems longer."""
        return Credential(
            generation=next_generation(self.facts),
            access_token=answer.access_token,
            expires=asked + answer.lifetime,
            obtained=asked,
            refresh_token=answer.refresh_token,
            subject=answer.subject,
            remarks=answer.remarks,
        )

    def without_access_token(self, refresh_token: str | None) -> Credential | None:
        """What is to be stored when an access token was granted that is of no use; None when there is nothing to keep."""
        return None


@dataclass
class Refresh(Beginning):
    """With the refresh token, which is good for one use (RFC 6749 6)."""

    subject = Subject.REFRESH
    waiting = c.REFRESHING

    def journal(self, now: datetime) -> Journal | None:
        return Journal.of(self._before, now)

    async def ask(self, endpoint: TokenEndpoint) -> TokenAnswer:
        assert self._before.refresh_token is not None
        return await endpoint.refresh(self._before.refresh_token, self.facts.account.spec.grant)

    def credential(self, answer: TokenAnswer, asked: datetime) -> Credential:
        before = self._before
        return msgspec.structs.replace(
            super().credential(answer, asked),
            previous_refresh_token=before.refresh_token,
            subject=answer.subject or before.subject,
            code_digest=before.code_digest,
            to_revoke=before.to_revoke,
        )

    def without_access_token(self, refresh_token: str | None) -> Credential:
        """The refresh token that was sent is spent, although the access token that came with the new one is of no use."""
        before = self._before
        kept = refresh_token or before.refresh_token
        return msgspec.structs.replace(before, refresh_token=kept, previous_refresh_token=before.refresh_token)

    @property
    def _before(self) -> Credential:
        assert self.facts.credential is not None
        return self.facts.credential


@dataclass
class CodeExchange(Beginning):
    """With the code that a person handed over (RFC 6749 4.1.3), or with a device's (RFC 8628 3.4)."""

    session: LoginSession
    revokes_replaced: bool

    @property
    def code(self) -> str:
        code = self.session.device_code or self.session.code
        assert code
        return code

    @property
    def first_retry(self) -> timedelta:
        return timedelta(seconds=max(1.0, self.session.poll_seconds))

    @property
    def reserves(self) -> str:
        return self.session.session_id if self.session.device_code else ""  # which is asked about again and again

    async def ask(self, endpoint: TokenEndpoint) -> TokenAnswer:
        if self.session.device_code:
            return await endpoint.exchange_device_code(self.code)
        return await endpoint.exchange_code(self.code, self.session)

    async def demand(self, answer: TokenAnswer, endpoint: TokenEndpoint) -> None:
        """`SubjectMismatch` when the wrong person logged in; their grant is then revoked, if possible."""
        expected, actual = self.facts.account.spec.expected_subject, answer.subject
        if expected is None or (actual is not None and actual.casefold() == expected.casefold()):
            return
        but = ""
        try:
            await endpoint.revoke(answer.refresh_token or answer.access_token, self.facts.account.spec.grant)
        except (TokenEndpointUnavailable, ExchangeRejected) as error:
            but = f", but could not be revoked: {error}"
        who = actual or "somebody whom the provider did not name"
        raise SubjectMismatch(f"{who} logged in, but spec.expectedSubject is {expected}; that login was refused{but}")

    def credential(self, answer: TokenAnswer, asked: datetime) -> Credential:
        """A new grant takes nothing from the old one, but remembers to revoke it."""
        before, left = self.facts.credential, list[str]()
        if before is not None:
            left = [*before.to_revoke]
            if before.dead is None and before.refresh_token is not None and self.revokes_replaced:
                left.append(before.refresh_token)
        return msgspec.structs.replace(
            super().credential(answer, asked), code_digest=login.digest(self.code), to_revoke=tuple(left)
        )


@dataclass
class WorkloadExchange(Beginning):
    """With a fresh token of the ServiceAccount (RFC 7523). Nothing is lost if the answer is: the next one is as good."""

    workload: WorkloadIdentity
    audience: str
    cluster: Cluster
    _assertion: str = field(default="", repr=False)

    subject = Subject.REFRESH

    async def prepare(self) -> None:
        try:
            self._assertion = await self.cluster.service_account_token(
                self.workload.service_account_name, self.audience
            )
        except (httpx2.HTTPError, TimeoutError) as error:
            raise TokenEndpointUnavailable(describe(error), may_be_done=False) from None

    async def ask(self, endpoint: TokenEndpoint) -> TokenAnswer:
        answer = await endpoint.exchange_assertion(self._assertion, self.workload)
        named = self.workload.service_account_id or self.workload.service_account_name
        return replace(answer, subject=answer.subject or named)

    def credential(self, answer: TokenAnswer, asked: datetime) -> Credential:
        return msgspec.structs.replace(super().credential(answer, asked), workload=fingerprint(self.workload.text))


@dataclass
class DeviceOpening(Beginning):
    """Without anything yet: the provider is asked for a login on another device (RFC 8628 3.1)."""

    is_counted = False

    async def ask(self, endpoint: TokenEndpoint) -> DeviceAuthorization:
        return await endpoint.authorize_device()


@dataclass
class Revocation(Beginning):
    """With grants that are no longer needed (RFC 7009)."""

    subject = Subject.REVOCATION
    waiting = c.REVOCATION_FAILED
    is_counted = False

    async def ask(self, endpoint: TokenEndpoint) -> None:
        credential = self.facts.credential
        for token in credential.to_revoke if credential is not None else ():
            await endpoint.revoke(token, self.facts.account.spec.grant)
