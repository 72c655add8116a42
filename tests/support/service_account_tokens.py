"""An issuer of ServiceAccount tokens as an API server is one: keys, what is published of them, and tokens of any kind."""

import json
import time
from base64 import urlsafe_b64encode
from functools import cache

from joserfc import jwk
from joserfc.jws import JWSRegistry

ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCE = "oauth-pool"


@cache
def rsa_key(kid: str) -> jwk.RSAKey:
    return jwk.RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"}, auto_kid=False)


@cache
def ec_key(kid: str) -> jwk.ECKey:
    return jwk.ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"}, auto_kid=False)


def configuration(issuer: str = ISSUER) -> bytes:
    return json.dumps({"issuer": issuer, "jwks_uri": "https://192.0.2.1/openid/v1/jwks"}).encode()


def published(*keys: jwk.RSAKey | jwk.ECKey) -> bytes:
    """As `/openid/v1/jwks` has them."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


def claims(now: float | None = None, **changes: object) -> dict[str, object]:
    """Of a good token; a change to None takes the claim away."""
    now = time.time() if now is None else now
    all_of_them = {
        "iss": ISSUER,
        "aud": [AUDIENCE],
        "sub": "system:serviceaccount:team-a:runner",
        "exp": int(now) + 3600,
        "iat": int(now),
        "nbf": int(now),
        "jti": "an-id",
        "kubernetes.io": {"namespace": "team-a", "serviceaccount": {"name": "runner", "uid": "u"}},
        **changes,
    }
    return {name: value for name, value in all_of_them.items() if value is not None}


def token(payload: dict[str, object], key: jwk.RSAKey | jwk.ECKey | None = None, **header: object) -> bytes:
    """Signed as API servers do, whatever the header says."""
    key = rsa_key("first") if key is None else key
    algorithm = "ES256" if isinstance(key, jwk.ECKey) else "RS256"
    beginning = unsigned(payload, b"", **{"alg": algorithm, "kid": key.kid, **header}).rpartition(b".")[0]
    signature = JWSRegistry.algorithms[algorithm].sign(beginning, key)
    return beginning + b"." + urlsafe_b64encode(signature).rstrip(b"=")


def unsigned(payload: dict[str, object], signature: bytes = b"", **header: object) -> bytes:
    """Any header at all, over a signature that is made up."""
    parts = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    return b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)
