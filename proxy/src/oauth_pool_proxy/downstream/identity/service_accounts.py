"""Identifies the owner of a ServiceAccount token for the reception: the client's name, or the error for the client."""

from oauth_pool_proxy.downstream.identity import tokens
from oauth_pool_proxy.downstream.identity.issuer import Issuer
from oauth_pool_proxy.downstream.identity.known import Failures
from oauth_pool_proxy.downstream.identity.tokens import Claim, Identity, KeyUnknown, Rules, TokenRefused
from oauth_pool_proxy.errors import ClientLimited, NotIdentified, ProofUndecided


class ServiceAccountTokens:
    def __init__(self, issuer: Issuer, audience: str, failures: Failures | None = None) -> None:
        self._issuer, self._audience, self._failures = issuer, audience, failures or Failures()

    def is_token(self, credential: bytes) -> bool:
        return tokens.is_token(credential)

    def is_of_a_service_account(self, credential: bytes) -> bool:
        return tokens.is_of_a_service_account(credential)

    def identity(self, token: bytes, address: str, now: float) -> tuple[str, float]:
        """The token's owner, and when it ends. Raises `NotIdentified`, `ProofUndecided` if it cannot be checked yet, and
        `ClientLimited` for an address that has sent too many tokens with bad signatures.
        """
        if self._issuer.name is None:
            raise ProofUndecided("The API server's keys for ServiceAccount tokens are not known yet", retry_after=1)
        try:
            claim = tokens.read(token, self._issuer.keys, Rules(self._issuer.name, self._audience), now)
        except TokenRefused as refused:
            raise _refusal(refused) from None
        except KeyUnknown as unknown:
            seconds = self._issuer.seconds_until_known(unknown.kid)
            if seconds is None:
                raise NotIdentified(_words("it is signed with a key that the API server does not publish")) from None
            raise ProofUndecided(
                "The ServiceAccount token is signed with a key that is not known yet", retry_after=seconds
            ) from None
        identity = self._verified(claim, address, now)
        return identity.name, identity.until

    def _verified(self, claim: Claim, address: str, now: float) -> Identity:
        if seconds := self._failures.seconds_left(address, now):
            raise ClientLimited("Too many tokens with bad signatures have come from this address", retry_after=seconds)
        try:
            return claim.verified()
        except TokenRefused as refused:
            self._failures.count(address, now)
            raise _refusal(refused) from None


def _refusal(refused: TokenRefused) -> NotIdentified:
    return NotIdentified(_words(str(refused)), is_final=refused.is_final)


def _words(why: str) -> str:
    return f"The ServiceAccount token is refused: {why}. docs/clients.md says how to get one"
