"""ServiceAccount tokens as proofs, on sockets: an API server that the test plays, and everything that is no such token."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from joserfc import jws

from oauth_pool_proxy.config import ClientsConfig
from oauth_pool_proxy.downstream.identity import issuer, known
from oauth_pool_proxy.downstream.identity.issuer import Issuer
from oauth_pool_proxy.downstream.identity.known import Failures, Known
from oauth_pool_proxy.downstream.identity.reception import Reception
from oauth_pool_proxy.downstream.identity.service_accounts import ServiceAccountTokens
from oauth_pool_proxy.errors import ClientLimited, NotIdentified
from oauth_pool_proxy.request import Request
from tests.support.proxy_server import NOW, Clock, Head, PoolFolder, RunningProxy, until
from tests.support.service_account_tokens import claims, configuration, published, rsa_key, token, unsigned
from tests.support.upstream_server import RawRequest, UpstreamServer, json_answer, upstream_server
from tests.test_proxy.conftest import Start
from tests.test_proxy.observe.test_access_log import Printed, printed
from tests.test_proxy.test_clients import MESSAGE, api_key, ask, bearer, error_of

__all__ = ["printed"]


class Cluster:
    """What an API server publishes of its keys; `status` says how it answers."""

    def __init__(self, server: UpstreamServer) -> None:
        self.server, self.status = server, 200
        self.keys = [rsa_key("first")]
        server.answer_all(self._answer)

    def _answer(self, request: RawRequest) -> bytes:
        is_keys = request.target == b"/openid/v1/jwks"
        assert is_keys or request.target == b"/.well-known/openid-configuration"
        return json_answer(published(*self.keys) if is_keys else configuration(), self.status)

    def clients(self, **settings: object) -> dict[str, object]:
        return {"kubernetes": {"server": self.server.url}, **settings}


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with upstream_server() as server:
        yield Cluster(server)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are fetched again as soon as that is asked for."""
    monkeypatch.setattr(issuer, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(issuer, "FIRST_RETRY", 0.01)


Proxy = Callable[..., Any]


@pytest.fixture
def pool(upstream: UpstreamServer, folder: PoolFolder) -> PoolFolder:
    folder.account("a")
    upstream.answer_all(json_answer())
    return folder


async def is_ready(proxy: RunningProxy) -> bool:
    return (await proxy.request("GET", "/ready")).status == 200


async def ready(proxy: RunningProxy) -> RunningProxy:
    await until(lambda: proxy.app._knows_clients(), "the keys are known")
    assert await is_ready(proxy)
    return proxy


def text(credential: bytes) -> str:
    return credential.decode()


@pytest.mark.parametrize("header", [bearer, api_key])
async def test_a_token_names_its_service_account_and_goes_no_further(
    upstream: UpstreamServer,
    start: Start,
    pool: PoolFolder,
    cluster: Cluster,
    printed: Printed,
    header: Callable[[str], str],
) -> None:
    proxy = await ready(start(oauth=pool.oauth(), clients=cluster.clients()))
    good = text(token(claims(NOW)))
    assert (await ask(proxy, header(good))).status == 200
    assert (await printed.line())["client"] == "team-a/runner"
    assert good.encode() not in upstream.requests[0].head
    assert good.split(".")[2] not in printed.rest()


async def test_in_passthrough_mode_no_token_of_any_service_account_passes(
    upstream: UpstreamServer, start: Start, cluster: Cluster
) -> None:
    upstream.answer_all(json_answer())
    proxy = await ready(start(clients=cluster.clients(require=False)))
    for_whom = [claims(NOW), claims(NOW, exp=1), claims(NOW, aud="another"), claims(NOW, iss="https://other.cluster")]
    for payload in for_whom:
        await ask(proxy, bearer(text(token(payload))) + api_key("sk-of-the-client"))
    await ask(proxy, bearer(text(unsigned({"sub": "somebody"}, b"x", alg="RS256"))))
    *first, last = upstream.requests
    for request in first:
        assert not request.values(b"authorization") and request.values(b"x-api-key") == [b"sk-of-the-client"]
    assert last.values(b"authorization")  # a JWT that is the client's own business


@pytest.mark.parametrize(
    ("credential", "why"),
    [
        (token(claims(NOW, exp=NOW - 61)), "it has expired"),
        (token(claims(NOW, aud="https://kubernetes.default.svc")), "it is not for the audience oauth-pool"),
        (token(claims(NOW, iss="https://other.cluster")), "it is of another cluster"),
        (token(claims(NOW), rsa_key("other"), kid="first"), "its signature is not the API server's"),
        (unsigned(claims(NOW), alg="none"), "its algorithm is none that API servers sign with"),
        (token(claims(NOW, padding="x" * 30_000)), "it is longer than 16384 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_wrong_with_a_token_is_told(
    upstream: UpstreamServer, start: Start, pool: PoolFolder, cluster: Cluster, credential: bytes, why: str
) -> None:
    proxy = await ready(start(oauth=pool.oauth(), clients=cluster.clients()))
    for headers in (bearer(text(credential)), api_key("dummy") + bearer(text(credential))):
        for _ in range(2):  # known, the second time
            status, kind, message = error_of(await ask(proxy, headers))
            assert (status, kind) == (401, "authentication_error")
            assert f"is refused: {why}" in message
    assert upstream.requests == []


async def test_a_token_ends_when_it_says_so(start: Start, pool: PoolFolder, cluster: Cluster, clock: Clock) -> None:
    proxy = await ready(start(oauth=pool.oauth(), clients=cluster.clients()))
    short, early = token(claims(NOW, exp=NOW + 10)), token(claims(NOW, nbf=NOW + 70))
    assert (await ask(proxy, bearer(text(short)))).status == 200
    assert (await ask(proxy, bearer(text(early)))).status == 401
    clock.advance(69)
    assert (await ask(proxy, bearer(text(short)))).status == 200  # the leeway
    assert (await ask(proxy, bearer(text(early)))).status == 200
    clock.advance(1)
    assert (await ask(proxy, bearer(text(short)))).status == 401


async def test_a_proxy_that_cannot_tell_yet_says_so_and_is_not_ready(
    start: Start, pool: PoolFolder, cluster: Cluster, soon: None
) -> None:
    cluster.status = 503
    proxy = start(oauth=pool.oauth(), clients=cluster.clients())
    answer = await ask(proxy, bearer(text(token(claims(NOW)))))
    assert (answer.status, answer.values(b"retry-after")) == (503, [b"1"])
    assert not await is_ready(proxy)
    assert (await ask(proxy, bearer("oap_no-key"))).status == 401
    cluster.status = 200
    assert (await ask(await ready(proxy), bearer(text(token(claims(NOW)))))).status == 200


async def test_with_the_api_server_away_tokens_are_still_verified(
    start: Start, pool: PoolFolder, cluster: Cluster, soon: None
) -> None:
    proxy = await ready(start(oauth=pool.oauth(), clients=cluster.clients()))
    cluster.status = 503
    unknown = text(token(claims(NOW), rsa_key("next")))
    for _ in range(2):
        assert (await ask(proxy, bearer(unknown))).status == 503  # nobody can say
    new = text(token(claims(NOW, jti="one that was not seen before")))
    assert (await ask(proxy, bearer(new))).status == 200
    assert await is_ready(proxy)


async def test_a_new_key_of_the_api_server_is_found_and_an_old_one_that_is_gone_counts_no_more(
    start: Start, pool: PoolFolder, cluster: Cluster, soon: None
) -> None:
    proxy = await ready(start(oauth=pool.oauth(), clients=cluster.clients()))
    old, new = text(token(claims(NOW))), text(token(claims(NOW), rsa_key("next")))
    assert (await ask(proxy, bearer(old))).status == 200
    cluster.keys = [rsa_key("next")]
    status = 503
    while status == 503:
        status = (await ask(proxy, bearer(new))).status
    assert status == 200
    while (await ask(proxy, bearer(old))).status == 503:
        pass
    assert (await ask(proxy, bearer(old))).status == 401


async def test_the_keys_are_asked_for_with_the_proxy_s_own_token(
    start: Start, pool: PoolFolder, cluster: Cluster, tmp_path: Any
) -> None:
    (tmp_path / "token").write_text("token-of-the-proxy\n")
    kubernetes = {"server": cluster.server.url, "token_file": str(tmp_path / "token")}
    await ready(start(oauth=pool.oauth(), clients={"kubernetes": kubernetes}))
    assert {request.values(b"authorization")[0] for request in cluster.server.requests} == {
        b"Bearer token-of-the-proxy"
    }


# What it costs to refuse


class Counted:
    """Signatures that are looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.signatures = 0
        real = jws.deserialize_compact

        def counted(*arguments: Any, **more: Any) -> Any:
            self.signatures += 1
            return real(*arguments, **more)

        monkeypatch.setattr(jws, "deserialize_compact", counted)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    yield Counted(monkeypatch)


async def reception_of(clock: Clock) -> tuple[Reception, Known]:
    async def fetch(path: str) -> bytes:
        return configuration() if path == issuer.CONFIGURATION_PATH else published(rsa_key("first"))

    keys = Issuer(fetch)
    await keys._refresh()
    known_ones = Known()
    service_accounts = ServiceAccountTokens(keys, "oauth-pool", Failures())
    return Reception(ClientsConfig(), known_ones, service_accounts, clock), known_ones


def request(credential: bytes, peer: str = "192.0.2.1") -> Request:
    return Request(Head("POST", b"/v1/messages", [(b"authorization", b"Bearer " + credential)], peer))


def refusal(reception: Reception, credential: bytes, peer: str = "192.0.2.1") -> type[Exception]:
    with pytest.raises((NotIdentified, ClientLimited)) as caught:
        reception.admit(request(credential, peer))
    return caught.type


async def test_ten_thousand_different_bad_tokens_cost_few_looks_at_signatures_and_little_memory(
    clock: Clock, counted: Counted
) -> None:
    reception, known_ones = await reception_of(clock)
    good, beginning = token(claims(NOW)), token(claims(NOW)).rpartition(b".")[0]
    assert reception.admit(request(good)).name == "team-a/runner"
    counted.signatures = 0
    refusals = [refusal(reception, b"%s.%043d" % (beginning, number)) for number in range(10_000)]
    assert counted.signatures == refusals.count(NotIdentified) <= 201
    assert refusals[-1] is ClientLimited
    # Others are not concerned: neither those who are known, nor those who come from elsewhere.
    assert reception.admit(request(good)).name == "team-a/runner"
    other = token(claims(NOW, sub="system:serviceaccount:team-b:runner"))
    assert reception.admit(request(other, "192.0.2.2")).name == "team-b/runner"
    clock.advance(10)  # and after some seconds, nobody from there either
    assert reception.admit(request(token(claims(NOW, jti="new")))).name == "team-a/runner"
    assert len(known_ones.refused) <= known.MOST_REFUSED


async def test_what_is_bad_without_a_look_at_its_signature_costs_none(clock: Clock, counted: Counted) -> None:
    reception, known_ones = await reception_of(clock)
    for number in range(known.MOST_REFUSED + 1000):
        bad = unsigned(claims(NOW, aud="another", jti=number), b"x", alg="RS256", kid="first")
        assert refusal(reception, bad) is NotIdentified
    assert counted.signatures == 0
    assert len(known_ones.refused) == known.MOST_REFUSED


async def test_a_good_token_is_verified_once_and_a_bad_one_refused_once(clock: Clock, counted: Counted) -> None:
    reception, known_ones = await reception_of(clock)
    good, bad = token(claims(NOW)), token(claims(NOW), rsa_key("other"), kid="first")
    for _ in range(100):
        reception.admit(request(good))
        refusal(reception, bad)
    assert counted.signatures == 2
    kept = repr(vars(known_ones)) + repr(vars(reception))
    assert good.decode() not in kept and good.split(b".")[2].decode() not in kept


def test_addresses_that_fail_are_forgotten_when_there_are_too_many() -> None:
    failures = Failures(per_second=1)
    for number in range(known.MOST_ADDRESSES + 10):
        failures.count(f"address-{number}", NOW)
    assert len(failures._over_at) == known.MOST_ADDRESSES


@pytest.mark.parametrize("headers", [bearer("ey." * 20_000), api_key("x" * 60_000)], ids=["token", "key"])
async def test_what_is_too_long_is_refused(start: Start, pool: PoolFolder, cluster: Cluster, headers: str) -> None:
    proxy = await ready(start(oauth=pool.oauth(), clients=cluster.clients()))
    assert (await ask(proxy, headers, MESSAGE)).status == 401
