"""Proves to the provider who the registered client is: with a secret, a signed assertion, or not at all.

Secret and key are read from their files for every request, so that they can be rotated without a restart.
"""

import base64
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote_plus

from authlib.oauth2.rfc7523 import client as rfc7523
from authlib.oauth2.rfc7523.assertion import private_key_jwt_sign
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from oauth_pool_operator.oauth.profiles import ClientProfile
from oauth_pool_operator.secret_files import SecretUnreadable, read_secret

# RFC 7523 3: an assertion has a short life; this covers clocks that differ.
ASSERTION_SECONDS = 300

_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


@dataclass(frozen=True)
class Proof:
    """What a proof adds to a request."""

    headers: dict[str, str] = field(default_factory=dict, repr=False)
    members: dict[str, str] = field(default_factory=dict, repr=False)


def prove(client: ClientProfile) -> Proof:
    """RFC 6749 2.3.1 and 3.2.1, RFC 7523 2.2. Raises `SecretUnreadable`; reads files, so call it in a thread."""
    public = {"client_id": client.client_id}
    match client.authentication:
        case "client_secret_basic":
            pair = f"{quote_plus(client.client_id)}:{quote_plus(_secret(client))}"  # RFC 6749 2.3.1: form-encoded first
            return Proof(headers={"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"})
        case "client_secret_post":
            return Proof(members=public | {"client_secret": _secret(client)})
        case "private_key_jwt":
            return Proof(members=public | _assertion(client))
        case _:
            return Proof(members=public)


def _secret(client: ClientProfile) -> str:
    assert client.client_secret_file is not None  # `profile_checks`
    return read_secret(client.client_secret_file)


def _assertion(client: ClientProfile) -> dict[str, str]:
    assert client.private_key_file is not None  # `profile_checks`
    key = _key(client)
    algorithm = client.signing_algorithm or _algorithm(key)
    try:
        signed: str = private_key_jwt_sign(
            key,
            client.client_id,
            client.assertion_audience or client.token_endpoint,
            alg=algorithm,
            header={"kid": client.key_id} if client.key_id is not None else {},
            expires_in=ASSERTION_SECONDS,
        )
    except (JoseError, ValueError, TypeError):
        raise SecretUnreadable(f"{client.private_key_file} is not a key for {algorithm}") from None
    return {"client_assertion_type": rfc7523.ASSERTION_TYPE, "client_assertion": signed}


def _key(client: ClientProfile) -> RSAKey | ECKey:
    """The private key. The library's error is not passed on: it may quote the file."""
    assert client.private_key_file is not None
    pem = read_secret(client.private_key_file)
    for kind in (RSAKey, ECKey):
        with suppress(JoseError, ValueError, TypeError):
            key = kind.import_key(pem)
            if key.is_private:
                return key
    raise SecretUnreadable(f"{client.private_key_file} holds no private key (RSA or EC, PEM, without a password)")


def _algorithm(key: RSAKey | ECKey) -> str:
    return _CURVES.get(key.curve_name, "ES256") if isinstance(key, ECKey) else "RS256"
