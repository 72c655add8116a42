"""What the operator reads: answers of token endpoints, objects that people and proxies write, ConfigMaps, pasted codes."""

import base64
import json
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from oauth_pool_operator.account import index_entry, policies, status
from oauth_pool_operator.account.documents import Credential, LoginSession
from oauth_pool_operator.account.spec import parse_account
from oauth_pool_operator.cluster import token_entry
from oauth_pool_operator.cluster.proxies import Proxies
from oauth_pool_operator.config import load_config
from oauth_pool_operator.errors import (
    ConfigError,
    ExchangeRejected,
    GrantRejected,
    StoreCorrupt,
    TokenEndpointUnavailable,
)
from oauth_pool_operator.oauth import login
from oauth_pool_operator.oauth.answer import demand_success, read_device_authorization, read_tokens
from oauth_pool_operator.oauth.profiles import AuthorizationCodeProfile
from oauth_pool_operator.oauth.transport import Answer
from oauth_pool_operator.storage import durable_files
from tests.support.builders import NOW, UID, credential, facts, session
from tests.support.sealing import new_key, sealed_entry

from .targets import Target, deep, header_lines, must

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIENT = AuthorizationCodeProfile(
    client_id="c",
    token_endpoint="https://a.example/token",
    authorization_endpoint="https://a.example/authorize",
    redirect_uri="https://a.example/cb",
    scopes=["inference"],
    subject_claim="account.email",
)
STATUSES = (200, 201, 302, 400, 401, 403, 408, 429, 500, 503)
LONG = timedelta(days=400)


def endpoint_answers(data: bytes) -> None:
    """The first byte is the status, then headers to an empty line, then the body. Nothing but the documented errors, and
    nothing of the body in their words."""
    head, _, body = data[1:].partition(b"\n\n")
    headers = httpx2.Headers([pair for pair in header_lines(head) if pair[0].isalpha()])
    answer = Answer(STATUSES[(data[0] if data else 0) % len(STATUSES)], headers, body)
    for read in (
        lambda: read_tokens(answer, client=CLIENT, sent_refresh_token="sent"),
        lambda: read_tokens(answer),
        lambda: read_device_authorization(answer),
        lambda: demand_success(answer, "an endpoint"),
    ):
        try:
            found: Any = read()
        except (TokenEndpointUnavailable, GrantRejected, ExchangeRejected) as error:
            _is_not_quoted(str(error), body)
            retry_after = getattr(error, "retry_after", None)
            must(retry_after is None or timedelta(0) <= retry_after <= timedelta(days=1), f"a wait of {retry_after}")
        else:
            lifetime = getattr(found, "lifetime", timedelta(1))
            must(timedelta(0) < lifetime <= LONG, f"a lifetime of {lifetime}")
            must(NOW + lifetime > NOW, "an end that cannot be reckoned with")


def _is_not_quoted(message: str, body: bytes) -> None:
    """Words of the standard are repeated, and nothing else that somebody could have chosen."""
    text = body.decode(errors="replace")
    values = [part for part in text.replace("\\", '"').split('"') if len(part) >= 12 and not part.islower()]
    must(not any(value in message for value in values), f"the error repeats the answer: {message}")


def objects(data: bytes) -> None:
    """One object, whatever the rest of it, in all that the operator makes of it."""
    document = _json(data)
    members = document if isinstance(document, dict) else {"spec": document, "status": {"reports": document}}
    metadata = {"name": "a", "namespace": "pool", "uid": UID, "generation": 1, "resourceVersion": "7"}
    spec = members.get("spec", {"provider": "anthropic", "grant": "AuthorizationCode"})
    given = members.get("status")
    reports = given.get("reports") if isinstance(given, dict) else given
    account = parse_account({"metadata": metadata, "spec": spec, "status": {"reports": reports}})
    known = facts(account, credential=credential())
    rendered = status.render_status(known, None)
    must(any(condition["type"] == "Ready" for condition in rendered["conditions"]), "a status that says nothing")
    must(policies.next_check(known) >= NOW - LONG, "the next look is in the past")
    msgspec.json.encode(index_entry.render_entry(known))
    json.dumps(rendered)


def proxies(data: bytes) -> None:
    """A proxy that declares nonsense gets nothing and costs no other."""
    document = _json(data)
    served = Proxies(lambda _: True)
    served.observe(None, _proxy("good", PUBLIC_KEY))
    for part in (document, {"spec": document}, {"spec": {"publicKey": document}}):
        members = part if isinstance(part, dict) else {"spec": part}
        own = {"name": "bad", "uid": "bad", "creationTimestamp": "2026-11-20T12:00:00Z"}
        metadata = members.get("metadata")
        served.observe("MODIFIED", {**members, "metadata": {**(metadata if isinstance(metadata, dict) else {}), **own}})
    must("good" in [proxy.pod for proxy in served.served], "a bad proxy has cost another")


def _proxy(name: str, key: str) -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u"}
    metadata = {"name": name, "uid": name, "creationTimestamp": "2026-11-20T12:00:00Z", "ownerReferences": [owner]}
    return {"metadata": metadata, "spec": {"publicKey": key}}


def token_entries(data: bytes) -> None:
    text = data.decode(errors="replace")
    found = token_entry.read(text)
    must(found is None or found.version == token_entry.VERSION, "an entry of another version")


def stored(data: bytes) -> None:
    """A file of the state volume that was damaged: said, and never quoted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "credential.json"
        path.write_bytes(data)
        for kind in (Credential, LoginSession):
            try:
                durable_files.read(path, kind)
            except StoreCorrupt as error:
                must(len(str(error)) < 100, "the error repeats the file")


def pasted(data: bytes) -> None:
    """No code is taken without the state of the open login, and nothing pasted is repeated."""
    text = data.decode(errors="replace")
    judged = login.judge(session(), text, NOW, "a", issuer="https://a.example")
    must(judged.code is None or "state-of-a-test" in login.parse_pasted(text).state, "a code without its state")
    must(judged.code is None or judged.problem is None, "a code that is both taken and refused")
    words = [word for word in text.split() if len(word) > 20]
    must(not any(word in judged.problem_message for word in words), "the message repeats what was pasted")
    login.judge(session(), text, NOW, "a", allow_without_state=True)


def configuration(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        try:
            loaded = load_config(Path(file.name), namespace="pool")
            problems = list(loaded.broken_providers.values())
        except ConfigError as error:
            problems = [str(error)]
    must(not any("\n" in problem for problem in problems), f"an error of more than one line: {problems}")


def _json(data: bytes) -> Any:
    """As it comes from the API server, which decodes it first: half a surrogate pair is U+FFFD then."""
    try:
        return json.loads(json.dumps(json.loads(data), ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        return data.decode(errors="replace")


PUBLIC_KEY = base64.b64encode(new_key()[1]).decode()
REPORT = {
    "reporter": "p",
    "observedTime": "2026-11-20T12:00:00Z",
    "reason": "QuotaExhausted",
    "untilTime": "9999-12-31T23:59:59Z",
    "windows": [{"name": "5h", "utilization": 1e308, "resetTime": "0001-01-01T00:00:00+14:00"}],
}
TOKENS = b'{"access_token":"a-token","refresh_token":"r","expires_in":3600,"token_type":"Bearer","scope":"inference"}'

TARGETS = (
    Target(
        "token endpoint answers",
        "one of the documented errors, in words of our own",
        endpoint_answers,
        (
            b"\0content-type: application/json\n\n" + TOKENS,
            b"\7retry-after: Mon, 01 Jan 2020 00:00:00 +99999999999999999999\n\n{}",
            b'\3\n\n{"error":"invalid_grant"}',
            b'\0\n\n{"device_code":"d","user_code":"u","verification_uri":"https://x","expires_in":1e400,"interval":-1}',
            b"\0\n\n" + deep(b'{"expires_in":', b"}"),
            b'\0\n\n{"access_token":"a","id_token":"a.eyJzdWIiOiJ4In0.b","expires_in":"9999999999999999999999"}',
        ),
    ),
    Target(
        "accounts and reports",
        "whatever stands in an object, its status says something",
        objects,
        (
            json.dumps({"status": {"reports": [REPORT]}}).encode(),
            b'{"spec":{"provider":"anthropic","grant":"DeviceCode","cooldown":"99999999999999h","weight":1e400}}',
            b'{"spec":{"provider":"a","grant":"WorkloadIdentity","workloadIdentity":{"serviceAccountName":"s"}}}',
            json.dumps([REPORT]).encode(),
        ),
    ),
    Target(
        "proxies", "one bad proxy costs one proxy", proxies, (json.dumps(_proxy("bad", PUBLIC_KEY)).encode(), b'"AAAA"')
    ),
    Target(
        "sealed entries",
        "what is no entry is none",
        token_entries,
        (sealed_entry("a", {"p": new_key()[1]}).encode(), deep(b'{"version":1,"x":', b"}")),
    ),
    Target(
        "files of the state volume",
        "damage is said, and never quoted",
        stored,
        (msgspec.json.encode(credential()), msgspec.json.encode(session()), deep(b'{"x":', b"}")),
    ),
    Target(
        "pasted codes",
        "no code without the state of its login",
        pasted,
        (
            b"code#state-of-a-test",
            b"https://a.example/cb?code=c&state=state-of-a-test&iss=https%3A%2F%2Fa.example",
            b"http://[::1",
            b"code=c&error=x",
        ),
    ),
    Target(
        "the operator's configuration",
        "one line for a person, and never a traceback",
        configuration,
        (
            (EXAMPLES / "operator.toml").read_bytes(),
            (EXAMPLES / "operator.toml").read_bytes().replace(b"127.0.0.1:8000/oauth/callback", b"127.0].0.1/"),
            deep(b"a = "),
            b"[operator]\nhealth_listen_addr = 'a:1'\n",
        ),
    ),
)
