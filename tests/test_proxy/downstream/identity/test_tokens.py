"""Which tokens are a ServiceAccount's for this proxy, and that none that is made up is one."""

import base64
import hashlib
import hmac
import json

import pytest

from oauth_pool_proxy.downstream.identity.known import MOST_CREDENTIAL_BYTES
from oauth_pool_proxy.downstream.identity.tokens import (
    Identity,
    KeyUnknown,
    Rules,
    TokenRefused,
    is_of_a_service_account,
    keys_of,
    read,
)
from tests.support.proxy_server import NOW
from tests.support.service_account_tokens import AUDIENCE, ISSUER, claims, ec_key, published, rsa_key, token, unsigned

KEYS = keys_of(published(rsa_key("first"), ec_key("curve")))
RULES = Rules(ISSUER, AUDIENCE)


def identity(credential: bytes) -> Identity:
    return read(credential, KEYS, RULES, NOW).verified()


@pytest.mark.parametrize("key", [rsa_key("first"), ec_key("curve")], ids=["rsa", "ec"])
def test_a_token_of_the_cluster_names_its_service_account(key: object) -> None:
    good = token(claims(NOW), key)  # type: ignore[arg-type]
    assert identity(good) == Identity("team-a/runner", NOW + 3600 + 60)


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": AUDIENCE},
        {"aud": ["https://kubernetes.default.svc", AUDIENCE]},
        {"exp": NOW - 59},
        {"nbf": NOW + 59},
        {"nbf": None, "iat": None},
        {"exp": NOW + 0.5},
    ],
    ids=str,
)
def test_what_else_is_a_good_token(changes: dict[str, object]) -> None:
    assert identity(token(claims(NOW, **changes))).name == "team-a/runner"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"aud": ["https://kubernetes.default.svc"]}, "not for the audience oauth-pool"),
        ({"aud": []}, "not for the audience"),
        ({"aud": None}, "not a ServiceAccount's"),
        ({"iss": "https://other.cluster"}, "another cluster"),
        ({"iss": None}, "not a ServiceAccount's"),
        ({"exp": NOW - 60}, "has expired"),
        ({"exp": None}, "not a ServiceAccount's"),
        ({"exp": "never"}, "not a ServiceAccount's"),
        ({"nbf": NOW + 61}, "not valid yet"),
        ({"sub": "system:serviceaccount:team-a:runner:more"}, "not a ServiceAccount's"),
        ({"sub": "system:serviceaccount:team-a"}, "not a ServiceAccount's"),
        ({"sub": "system:serviceaccount:../x:runner"}, "not a ServiceAccount's"),
        ({"sub": "system:serviceaccount:team-a:runner\n"}, "not a ServiceAccount's"),
        ({"sub": "system:node:team-a"}, "not a ServiceAccount's"),
    ],
    ids=str,
)
def test_what_is_no_good_token_and_why(changes: dict[str, object], why: str) -> None:
    with pytest.raises(TokenRefused, match=why):
        identity(token(claims(NOW, **changes)))


def test_only_what_time_will_mend_is_looked_at_again() -> None:
    with pytest.raises(TokenRefused) as early:
        identity(token(claims(NOW, nbf=NOW + 61)))
    with pytest.raises(TokenRefused) as late:
        identity(token(claims(NOW, exp=NOW - 60)))
    assert (early.value.is_final, late.value.is_final) == (False, True)


def with_public_key_as_secret(algorithm: str) -> bytes:
    """The oldest trick: what everybody knows is taken for a secret that two share."""
    secret = rsa_key("first").as_pem(private=False)
    signed = unsigned(claims(NOW), b"", alg=algorithm, kid="first").rpartition(b".")[0]
    mac = hmac.new(secret, signed, hashlib.sha256).digest()
    return signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")


HOSTILE = {
    "alg none": unsigned(claims(NOW), alg="none", kid="first"),
    "alg None": unsigned(claims(NOW), alg="None", kid="first"),
    "no alg": unsigned(claims(NOW), kid="first"),
    "alg null": unsigned(claims(NOW), alg=None, kid="first"),
    "HS256 with the public key": with_public_key_as_secret("HS256"),
    "said to be RS256": with_public_key_as_secret("RS256"),
    "signed by another key of the same id": token(claims(NOW), rsa_key("other"), kid="first"),
    "the curve's id on an RSA signature": token(claims(NOW), rsa_key("first"), kid="curve"),
    "a weaker hash": unsigned(claims(NOW), b"x" * 256, alg="RS1", kid="first"),
    "no signature": token(claims(NOW)).rpartition(b".")[0] + b".",
    "another payload": b".".join(
        (token(claims(NOW)).split(b".")[0], unsigned(claims(NOW, sub="system:serviceaccount:a:b")).split(b".")[1], b"x")
    ),
    "critical extensions": token(claims(NOW), crit=["exp"], exp=1),
    "unencoded payload": unsigned(claims(NOW), b"x", alg="RS256", kid="first", b64=False, crit=["b64"]),
    "a key of its own": unsigned(
        claims(NOW),
        b"x",
        alg="RS256",
        kid="first",
        jwk=rsa_key("other").as_dict(private=False),
        jku="http://192.0.2.1/",
    ),
    "a path as key id": unsigned(claims(NOW), b"x", alg="RS256", kid=""),
    "a key id without end": unsigned(claims(NOW), b"x", alg="RS256", kid="k" * 5000),
    "a list as key id": unsigned(claims(NOW), b"x", alg="RS256", kid=["first"]),
    "not base64": b"ey\xff.ey\xff.x",
    "not JSON": b"eyAA.eyAA.x",
    "nested without end": base64.urlsafe_b64encode(b'{"a":' * 1500).rstrip(b"=") + b".e30.x",
    "16 KB": b"ey" + b"A" * MOST_CREDENTIAL_BYTES + b".e30.x",
    "100 KB": token(claims(NOW, padding="x" * 100_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_that_is_made_up_is_believed(name: str) -> None:
    with pytest.raises(TokenRefused):
        identity(HOSTILE[name])


def test_what_is_too_long_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oauth_pool_proxy.downstream.identity.tokens._decoded", lambda _: pytest.fail("looked into"))
    with pytest.raises(TokenRefused, match="longer than 16384 bytes"):
        identity(HOSTILE["100 KB"])
    assert is_of_a_service_account(HOSTILE["100 KB"])  # for all that is known


def test_of_a_key_that_is_not_known_nothing_is_said() -> None:
    with pytest.raises(KeyUnknown) as caught:
        identity(token(claims(NOW), rsa_key("next")))
    assert caught.value.kid == "next"


def test_nothing_of_a_token_is_in_what_is_said_about_it() -> None:
    hush = unsigned(claims(NOW, hush="hush"), b"hush-signature", alg="RS256", kid="first")
    claim = read(hush, KEYS, RULES, NOW)
    with pytest.raises(TokenRefused) as caught:
        claim.verified()
    for text in (repr(claim), repr(caught.value), str(caught.value)):
        assert "hush" not in text and hush.decode() not in text and hush.split(b".")[2].decode() not in text


def test_keys_that_nobody_signs_with_are_left_out() -> None:
    document = json.loads(published(rsa_key("first")))
    document["keys"] += [
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "RSA", "n": document["keys"][0]["n"], "e": "AQAB"},
        {"kty": "RSA", "kid": "short", "n": document["keys"][0]["n"][:-4], "e": "AQAB"},  # RFC 7518 3.3: 2048 bits
    ]
    assert list(keys_of(json.dumps(document).encode())) == ["first"]
    with pytest.raises(ValueError, match="no key"):
        keys_of(b'{"keys":[]}')


@pytest.mark.parametrize(
    ("credential", "is_one"),
    [
        (token(claims(NOW)), True),
        (token(claims(NOW, aud="another", iss="another", exp=1)), True),
        (unsigned(claims(NOW), alg="none"), True),
        (unsigned({"sub": "somebody"}, alg="RS256"), False),
        (b"sk-ant-api03-x", False),
        (b"ey.ey.ey", False),
    ],
)
def test_what_says_that_it_is_a_service_account_s_is_known_whoever_issued_it(credential: bytes, is_one: bool) -> None:
    assert is_of_a_service_account(credential) is is_one
