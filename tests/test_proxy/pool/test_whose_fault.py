"""Whose fault an answer is, on the wire: evidence, not suspicion. Every row of the table, with pools of all sizes."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.support.proxy_server import NOW, PoolFolder, RawAnswer, RunningProxy
from tests.support.upstream_server import SSE_HEAD, RawRequest, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start
from tests.test_proxy.pool.test_failover import account_of, asked, statuses

GOOD = b'{"type":"message"}'
SIZES = pytest.mark.parametrize("size", [1, 2, 5, 40])


@dataclass(frozen=True)
class Said:
    """An error as the API words it, in any of the forms in which it may come."""

    status: int
    kind: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()
    code: str | None = None

    @property
    def body(self) -> bytes:
        error: dict[str, object] = {"type": self.kind, "message": self.message}
        if self.code:
            error["details"] = {"error_code": self.code}
        return json.dumps({"type": "error", "error": error}).encode()

    def as_json(self) -> bytes:
        return json_answer(self.body, self.status, ("request-id", "req_of_the_api"), *self.headers)

    def as_gzip(self) -> bytes:
        return json_answer(
            gzip.compress(self.body, mtime=0),
            self.status,
            ("request-id", "req_of_the_api"),
            ("content-encoding", "gzip"),
            *self.headers,
        )

    @property
    def event(self) -> bytes:
        return b": hello\n\nevent: ping\ndata: {}\n\nevent:error\ndata:%s\n\n" % self.body

    def as_stream(self) -> bytes:
        return self._stream(self.event)

    def as_gzip_stream(self) -> bytes:
        return self._stream(gzip.compress(self.event, mtime=0), "content-encoding: gzip\r\n")

    def _stream(self, body: bytes, more: str = "") -> bytes:
        lines = "request-id: req_of_the_api\r\n" + "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        head = SSE_HEAD[:-2] + (lines + more).encode() + b"\r\n"
        return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


FORMS = pytest.mark.parametrize("form", [Said.as_json, Said.as_gzip, Said.as_stream, Said.as_gzip_stream])
Form = Callable[[Said], bytes]

NO_OAUTH = Said(401, "authentication_error", "OAuth authentication is currently not supported.")
BROWSER = Said(401, "authentication_error", "CORS requests must set 'anthropic-dangerous-direct-browser-access' header")
NOT_ALLOWED = Said(403, "permission_error", "Request not allowed")
EXPENSIVE = Said(402, "billing_error", "This request costs too much")
LONG_CONTEXT = Said(429, "rate_limit_error", "Extra usage is required for long context requests.")
EXPIRED = Said(401, "authentication_error", "OAuth token has expired. Please obtain a new token.")
REVOKED = Said(403, "permission_error", "OAuth token has been revoked.")
NO_ORGANIZATION = Said(403, "permission_error", "OAuth authentication is currently not allowed for this organization.")
BY_CODE = Said(403, "permission_error", "Request not allowed", code="oauth_not_allowed_for_organization")
DISABLED = Said(400, "invalid_request_error", "This organization has been disabled.")
NO_EXTRA_USAGE = Said(400, "invalid_request_error", "You're out of extra usage. Add more in your settings.")
NO_CREDIT = Said(402, "billing_error", "Your credit balance is too low.")
API_LIMITS = Said(400, "invalid_request_error", "You have reached your specified API usage limits.")
QUOTA = Said(
    429,
    "rate_limit_error",
    "This request would exceed your account's rate limit.",
    (
        ("anthropic-ratelimit-unified-5h-status", "rejected"),
        ("anthropic-ratelimit-unified-5h-reset", str(int(NOW) + 600)),
    ),
)


class World:
    """A pool of so many accounts, and an upstream that answers by the account."""

    def __init__(self, upstream: UpstreamServer, start: Start, folder: PoolFolder, size: int, **oauth: object) -> None:
        self.names = [f"a{number:02}" for number in range(size)]
        for name in self.names:
            folder.account(name)
        self.upstream, self.folder = upstream, folder
        self.refused: dict[str, bytes] = {}
        self.everybody: bytes | None = None
        self.only: Callable[[RawRequest], bool] = lambda _: True
        upstream.answer_all(self._answer)
        self.proxy: RunningProxy = start(oauth=folder.oauth(affinity=False, **oauth))

    def _answer(self, request: RawRequest) -> bytes:
        name = account_of(request).rpartition("-")[0]
        if self.only(request) and (answer := self.refused.get(name, self.everybody)) is not None:
            return answer
        return json_answer(GOOD)

    async def ask(self, target: str = "/v1/messages", headers: str = "", body: bytes = b"{}") -> RawAnswer:
        self.upstream.requests.clear()
        return await self.proxy.request("POST", target, headers, body)

    def asked(self) -> list[str]:
        return [name.rpartition("-")[0] for name in asked(self.upstream)]

    async def available(self) -> int:
        return list((await statuses(self.proxy)).values()).count("available")


@SIZES
@FORMS
@pytest.mark.parametrize("said", [NO_OAUTH, BROWSER, NOT_ALLOWED, EXPENSIVE], ids=lambda said: said.message[:20])
async def test_what_a_second_account_answers_the_same_way_is_the_request_s(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, size: int, said: Said, form: Form
) -> None:
    world = World(upstream, start, folder, size)
    world.everybody = form(said)
    answer = await world.ask()
    head, _, body = form(said).partition(b"\r\n\r\n")
    assert answer.status == int(head.split()[1])
    assert answer.body in body and answer.body  # without the framing of chunks
    assert answer.values(b"request-id") == [b"req_of_the_api"]
    assert len(world.asked()) == len(set(world.asked())) == min(size, 2)
    world.everybody = None
    for _ in range(3):
        assert (await world.ask()).body == GOOD
    assert await world.available() == size
    metrics = await world.proxy.metrics()
    assert not [name for name in metrics if name.startswith("pool_account_benched")]
    status = answer.status
    assert metrics[f'proxy_requests_total{{method="POST",status="{status}",verdict="request"}}'] == 1


@pytest.mark.parametrize("size", [2, 5, 40])
@FORMS
@pytest.mark.parametrize(
    ("said", "reason"),
    [(NO_OAUTH, "Unauthorized"), (NOT_ALLOWED, "Forbidden"), (EXPENSIVE, "Billing")],
    ids=["401", "403", "402"],
)
async def test_what_another_account_answers_well_is_the_account_s(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, size: int, said: Said, form: Form, reason: str
) -> None:
    world = World(upstream, start, folder, size)
    first = world.names[0]
    world.refused[first] = form(said)
    assert (await world.ask()).body == GOOD
    assert world.asked() == world.names[:2]
    assert (await statuses(world.proxy))[first] == "disabled"
    metrics = await world.proxy.metrics()
    benched = {name: value for name, value in metrics.items() if name.startswith("pool_account_benched")}
    assert benched == {f'pool_account_benched_total{{account_id="{first}",reason="{reason}"}}': 1}


@SIZES
@FORMS
async def test_a_limit_that_nothing_explains_is_put_to_three_accounts_at_most_and_benches_nobody(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, size: int, form: Form
) -> None:
    world = World(upstream, start, folder, size)
    world.everybody = form(LONG_CONTEXT)
    answer = await world.ask()
    assert LONG_CONTEXT.message.encode() in (
        gzip.decompress(answer.body) if answer.values(b"content-encoding") else answer.body
    )
    assert len(world.asked()) == min(size, 3)
    assert await world.available() == size


@SIZES
@FORMS
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (EXPIRED, "Unauthorized"),
        (REVOKED, "Forbidden"),
        (NO_ORGANIZATION, "Forbidden"),
        (BY_CODE, "Forbidden"),
        (DISABLED, "Forbidden"),
        (NO_EXTRA_USAGE, "Billing"),
        (NO_CREDIT, "Billing"),
        (API_LIMITS, "Billing"),
    ],
    ids=lambda value: value.message[:24] if isinstance(value, Said) else value,
)
async def test_words_that_refuse_the_account_bench_it_at_once_with_a_reason_of_its_own(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, size: int, said: Said, form: Form, reason: str
) -> None:
    world = World(upstream, start, folder, size)
    first = world.names[0]
    world.refused[first] = form(said)
    answer = await world.ask()
    health = (await world.proxy.request("GET", "/health")).json()["pool"]
    assert isinstance(health, dict)
    benched = {account["id"]: account["reason"] for account in health["accounts"] if "reason" in account}
    assert benched == {first: reason}
    if size > 1:
        assert answer.body == GOOD
        assert world.asked() == world.names[:2]
    elif said.status in (400, 402):
        assert answer.values(b"request-id") == [b"req_of_the_api"]  # the upstream's own words
    else:
        # A client takes a 401 or 403 for the end of its own login.
        assert (answer.status, answer.json()["error"]["type"]) == (503, "pool_exhausted")  # type: ignore[index]


@SIZES
@FORMS
async def test_a_used_up_window_of_every_account_is_our_429_with_the_soonest_reset(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, size: int, form: Form
) -> None:
    world = World(upstream, start, folder, size)
    world.everybody = form(QUOTA)
    answer = await world.ask()
    assert answer.status == 429
    assert len(world.asked()) == min(size, 8)
    if size <= 8:
        assert 601 <= int(answer.values(b"retry-after")[0]) <= 630


async def test_one_request_s_401_leaves_every_other_client_alone(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    world = World(upstream, start, folder, 2)
    world.everybody = NO_OAUTH.as_json()
    world.only = lambda request: request.target == b"/v1/files"
    for _ in range(5):
        assert (await world.ask("/v1/files")).status == 401
        assert (await world.ask()).body == GOOD
    assert await world.available() == 2


async def test_no_client_benches_an_account_by_what_the_api_repeats(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    world = World(upstream, start, folder, 3)
    words = "Your credit balance is too low"
    world.everybody = Said(400, "invalid_request_error", f"messages.0.role: unexpected value '{words}'").as_json()
    answer = await world.ask(body=json.dumps({"messages": [{"role": words}]}).encode())
    assert answer.status == 400
    assert len(world.asked()) == 2
    assert await world.available() == 3


async def test_different_answers_without_proof_are_put_to_three_accounts_and_the_last_passes(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    world = World(upstream, start, folder, 5)
    for name, said in zip(world.names, [NO_OAUTH, NOT_ALLOWED, EXPENSIVE, NO_OAUTH, NO_OAUTH], strict=True):
        world.refused[name] = said.as_json()
    answer = await world.ask()
    assert (answer.status, answer.body) == (402, EXPENSIVE.body)
    assert world.asked() == world.names[:3]
    assert await world.available() == 5


async def test_a_403_about_a_model_is_remembered_for_that_model(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    world = World(upstream, start, folder, 2)
    world.refused["a00"] = Said(403, "permission_error", "Your account does not have access to opus").as_json()
    world.only = lambda request: b"opus" in request.body
    assert (await world.ask(body=b'{"model":"opus"}')).body == GOOD
    assert world.asked() == ["a00", "a01"]
    for _ in range(3):
        await world.ask(body=b'{"model":"opus"}')
        assert world.asked() == ["a01"]
    both = set()
    for _ in range(2):
        await world.ask(body=b'{"model":"haiku"}')
        both.update(world.asked())
    assert both == {"a00", "a01"}


async def test_a_model_that_no_account_may_use_is_refused_in_the_upstream_s_own_words(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    world = World(upstream, start, folder, 2)
    said = Said(403, "permission_error", "Your account does not have access to opus")
    world.everybody = said.as_json()
    for _ in range(2):
        answer = await world.ask(body=b'{"model":"opus"}')
        assert (answer.status, answer.body) == (403, said.body)


async def test_a_missing_scope_is_put_to_another_account_and_nobody_is_to_blame(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    world = World(upstream, start, folder, 2)
    world.refused["a00"] = Said(403, "permission_error", "OAuth token does not meet scope user:files").as_json()
    assert (await world.ask()).body == GOOD
    assert await world.available() == 2


@pytest.mark.parametrize("most", [1, 3])
async def test_most_accounts_bounds_one_request(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, most: int
) -> None:
    world = World(upstream, start, folder, 5, most_accounts=most)
    world.everybody = QUOTA.as_json()
    assert (await world.ask()).status == 429
    assert len(world.asked()) == most


async def test_a_rule_of_the_configuration_comes_before_the_table(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    rule = {"status": 418, "words": ["bad weather"], "verdict": "forbidden", "cooldown_secs": 30}
    world = World(upstream, start, folder, 2, rules=[rule])
    world.refused["a00"] = Said(418, "api_error", "There is bad weather").as_json()
    assert (await world.ask()).body == GOOD
    assert (await statuses(world.proxy)) == {"a00": "disabled", "a01": "available"}


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("packed", [False, True])
async def test_a_limit_in_mid_stream_passes_and_the_account_rests_for_the_next_request(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, usage: bool, split: bool, packed: bool
) -> None:
    world = World(upstream, start, folder, 2, usage_metrics=usage)
    start_event = b'event: message_start\ndata: {"type":"message_start","message":{"model":"m"}}\n\n'
    text = start_event + b"event: error\ndata: %s\n\n" % QUOTA.body
    body = gzip.compress(text, mtime=0) if packed else text
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)] if split else [body]
    lines = "".join(f"{name}: {value}\r\n" for name, value in QUOTA.headers)
    lines += "content-encoding: gzip\r\n" if packed else ""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    world.refused["a00"] = SSE_HEAD[:-2] + lines.encode() + b"\r\n" + chunks + b"0\r\n\r\n"
    answer = await world.ask()
    assert (answer.status, answer.body, answer.is_complete) == (200, body, True)
    assert await statuses(world.proxy) == {"a00": "cooling_down", "a01": "available"}
    metrics = await world.proxy.metrics()
    assert metrics['proxy_requests_total{method="POST",status="200",verdict="limit"}'] == 1


async def test_an_answer_that_only_talks_about_limits_benches_nobody(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    world = World(upstream, start, folder, 1)
    delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": QUOTA.body.decode()}}
    event = b"event: content_block_delta\ndata: %s\n\n" % json.dumps(delta).encode()
    world.everybody = SSE_HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event)
    assert (await world.ask()).body == event
    assert await world.available() == 1


async def test_an_error_longer_than_any_of_the_api_passes_as_it_is(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    world = World(upstream, start, folder, 3)
    page = b"<html>" + b"x" * 200_000
    world.everybody = json_answer(page, 403)
    answer = await world.ask()
    assert (answer.status, answer.body, answer.is_complete) == (403, page, True)
    assert len(world.asked()) == 1


async def test_a_configuration_without_the_beta_that_makes_tokens_count_shows_the_upstream_s_words(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    world = World(upstream, start, folder, 2, anthropic_beta=[])
    said = Said(401, "authentication_error", "x-api-key header is required")
    world.everybody = said.as_json()
    assert (await world.ask()).body == said.body
    assert await world.available() == 2
