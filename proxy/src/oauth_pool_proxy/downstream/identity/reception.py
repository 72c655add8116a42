"""Identifies the client: finds the proof in a request, and tells whose it is.

A proof is a ServiceAccount token or a configured key, in `Authorization: Bearer` or `x-api-key`, which official clients can send.
Or it is a login that the Tailscale proxy adds, on the listener that only it can reach. Each credential is checked once; after
that its digest is known. Nothing here is logged, and no proof goes upstream.
"""

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from hmac import compare_digest
from typing import Protocol

from oauth_pool_proxy.config import ClientKey, ClientsConfig, Header
from oauth_pool_proxy.downstream.identity.allowance import Allowances, Caller
from oauth_pool_proxy.downstream.identity.known import MOST_CREDENTIAL_BYTES, Known, Proven
from oauth_pool_proxy.errors import NotIdentified, ProxyError
from oauth_pool_proxy.observe.client_metrics import STRANGER

KEY_MARK = b"oap_"
"""The prefix of keys made by `kubectl oauthaccount key create`."""
MOST_CALLERS = 10_000
LOGIN = b"tailscale-user-login"
_TAILSCALE = b"tailscale-"
_LOGIN_VALUE = re.compile(rb"[\x21-\x7e]{1,256}")
_BEARER = b"bearer "
_FOREVER = float("inf")


class Asked(Protocol):
    """The parts of a request that are checked, and `headers` and `caller`, which are replaced."""

    path: str
    headers: list[Header]
    fields: dict[bytes, bytes]
    """The headers by name."""
    peer: str
    is_from_tailnet: bool
    began: float
    caller: Caller | None


class Tokens(Protocol):
    """Identifies the owners of ServiceAccount tokens."""

    def identity(self, token: bytes, address: str, now: float) -> tuple[str, float]:
        """The client's name, and when the token ends. Raises a `ProxyError`. Times are in seconds since 1970."""

    def is_token(self, credential: bytes) -> bool: ...
    def is_of_a_service_account(self, credential: bytes) -> bool: ...


class Reception:
    """`tokens` is None where no ServiceAccount token is accepted. With `keeps_credentials`, other credentials go upstream."""

    def __init__(
        self,
        config: ClientsConfig,
        known: Known,
        tokens: Tokens | None,
        clock: Callable[[], float],
        *,
        keeps_credentials: bool = False,
    ) -> None:
        self._require, self._keys, self._known, self._tokens = config.require, config.keys, known, tokens
        self._clock, self._keeps_credentials = clock, keeps_credentials
        self._allowances = Allowances(config.rules)
        self._callers: dict[str, Caller] = {}
        self._stranger = Caller(STRANGER, self._allowances.of(STRANGER), is_stranger=True)
        self._how_to_get_in = _how_to_get_in(config)

    def admit(self, request: Asked) -> Caller:
        """Identify the client and begin one more request for it. The calling code must end it.

        Proofs are removed from headers that go upstream. Raises the error for the client.
        """
        now = self._clock()
        caller = self._known_caller(request.fields, now) or self._found_caller(request, now)
        if self._keeps_credentials:
            request.headers = [header for header in request.headers if not self._is_proof(header)]
        request.caller = caller
        caller.begin(request.path, request.began)
        return caller

    def _known_caller(self, fields: Mapping[bytes, bytes], now: float) -> Caller | None:
        """The client of a known credential. Nearly all are known, and this runs for every request."""
        authorization = fields.get(b"authorization")
        if authorization is None:
            credential = fields.get(b"x-api-key", b"")
        else:
            credential = authorization[7:] if authorization.startswith(b"Bearer ") else b""
        if len(credential) > MOST_CREDENTIAL_BYTES:
            return None
        known = self._known.proven.get(sha256(credential).digest())
        return known.caller if known is not None and known.until > now else None

    def _found_caller(self, request: Asked, now: float) -> Caller:
        failure: ProxyError | None = None
        for credential in credentials(request.headers):
            try:
                return self._caller_of(credential, request.peer, now)
            except ProxyError as error:
                # Of two, report the one meant as a proof: clients that must send a key send a meaningless one.
                if failure is None or self._looks_like_proof(credential):
                    failure = error
        if request.is_from_tailnet and (login := _login(request.headers)):
            return self._caller(f"tailscale:{login}")
        if not self._require:
            return self._stranger
        raise failure or NotIdentified(self._how_to_get_in)

    def _caller_of(self, credential: bytes, peer: str, now: float) -> Caller:
        if len(credential) > MOST_CREDENTIAL_BYTES:
            raise NotIdentified(f"The token or key is refused: it is longer than {MOST_CREDENTIAL_BYTES} bytes")
        digest = sha256(credential).digest()
        if known := self._known.proven.get(digest):
            if known.until > now:
                return known.caller
            del self._known.proven[digest]
        if why := self._known.refused.get(digest):
            raise NotIdentified(why)
        try:
            name, until = self._look_at(credential, digest, peer, now)
        except NotIdentified as error:
            if error.is_final:
                self._known.refuse(digest, str(error))
            raise
        caller = self._caller(name)
        self._known.prove(digest, Proven(caller, until))
        return caller

    def _look_at(self, credential: bytes, digest: bytes, peer: str, now: float) -> tuple[str, float]:
        if self._tokens and self._tokens.is_token(credential):
            return self._tokens.identity(credential, peer, now)
        key = self._key_of(digest)
        if key is None:
            raise NotIdentified(self._how_to_get_in)
        until = _FOREVER if key.expires_at is None else key.expires_at
        if until <= now:
            raise NotIdentified(f"The key {key.name} has expired")
        return f"key:{key.name}", until

    def _key_of(self, digest: bytes) -> ClientKey | None:
        """Compares all keys in full, so the time it takes does not reveal how close a guess was."""
        found = None
        for key in self._keys:
            if compare_digest(key.digest, digest):
                found = key
        return found

    def _caller(self, name: str) -> Caller:
        caller = self._callers.get(name)
        if caller is None:
            if len(self._callers) >= MOST_CALLERS:
                self._forget_idle()
            caller = self._callers[name] = Caller(name, self._allowances.of(name))
        return caller

    def _forget_idle(self) -> None:
        """Forget all clients without requests in flight. Their limits start anew, which hardly matters among so many."""
        self._callers = {name: caller for name, caller in self._callers.items() if caller.in_flight}
        self._known.proven.clear()  # its entries still refer to the forgotten clients

    # Keeping proofs from the upstream, in passthrough mode

    def _is_proof(self, header: Header) -> bool:
        """Includes proofs that have expired or are for another service. Credentials for the upstream look different."""
        name, value = header
        if name.startswith(_TAILSCALE):
            return True
        credential = _credential(name, value)
        return credential is not None and (self._looks_like_proof(credential) or self._is_known(credential))

    def _is_known(self, credential: bytes) -> bool:
        digest = sha256(credential).digest()
        return digest in self._known.proven or self._key_of(digest) is not None

    def _looks_like_proof(self, credential: bytes) -> bool:
        if credential.startswith(KEY_MARK):
            return True
        return self._tokens is not None and self._tokens.is_of_a_service_account(credential)


def credentials(headers: list[Header]) -> list[bytes]:
    """The credentials that may be proofs, in header order."""
    return [
        credential
        for name, value in headers
        if name in (b"authorization", b"x-api-key") and (credential := _credential(name, value))
    ]


def _credential(name: bytes, value: bytes) -> bytes | None:
    if name == b"x-api-key":
        return value.strip()
    if name == b"authorization" and value[:7].lower() == _BEARER:  # RFC 9110 11.1: case-insensitive
        return value[7:].strip()
    return None


def _login(headers: list[Header]) -> str | None:
    """The Tailscale login. Its proxy removes this header from requests and adds its own, so two of them are not from it."""
    logins = [value for name, value in headers if name == LOGIN]
    return logins[0].decode() if len(logins) == 1 and _LOGIN_VALUE.fullmatch(logins[0]) else None


def _how_to_get_in(config: ClientsConfig) -> str:
    ways = []
    if config.kubernetes:
        ways.append(f"a token of a ServiceAccount of this cluster with the audience {config.audience}")
    if config.keys:
        ways.append("a key that the proxy's configuration knows")
    words = "This proxy serves clients that it knows."
    if ways:
        words += f" Send {' or '.join(ways)}, as `Authorization: Bearer …` or as `x-api-key`."
    if config.tailscale:
        words += f" {'Or come' if ways else 'Come'} by its address on the tailnet."
    return f"{words} docs/clients.md says how"
