"""A person who may create and change OAuthAccounts, and wants more than that."""

import contextlib
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping

from tests.test_manifests.proxies import JSON, MERGE

from .hostile_stack import HostileStack, Log


def act(stack: HostileStack, log: Log, many: int) -> None:
    """`many` is how often what is a matter of numbers is done."""
    author, victim = stack.author(), stack.get("alice")
    accounts = f"/apis/oauthpool.dev/v1alpha1/namespaces/{stack.namespace}/oauthaccounts"

    def post(name: str, spec: Mapping[str, object], **more: object) -> int:
        body = stack.account(name) | {"spec": {"provider": "simulator", "grant": "AuthorizationCode", **spec}, **more}
        return stack.request(author, "POST", accounts, body, JSON).status_code

    def patch(name: str, body: object) -> int:
        return stack.request(author, "PATCH", f"{accounts}/{name}", body, MERGE).status_code

    # where tokens and codes are sent
    with _listener() as (url, connections):
        elsewhere = {"tokenEndpoint": url, "authorizationEndpoint": url, "providerURL": url, "redirectURI": url}
        post("elsewhere", elsewhere)
        refused = [post("as-provider", {"provider": url}), post("as-path", {"provider": "../simulator"})]
        refused.append(patch("alice", {"spec": {"provider": "loopback"}}))
        shown = stack.authorization_url("elsewhere")
        kept = not connections and all(code == 422 for code in refused) and url not in shown
        log.add("sends logins and tokens elsewhere", 4, "the profile's endpoints are used", kept=kept)

    # the status
    forged = {
        "status": {"conditions": [], "token": {"generation": 9999}, "login": {"authorizationURL": "https://evil"}}
    }
    codes = [author.patch_status(forged["status"]).status_code, author.apply(forged["status"], manager="x").status_code]
    patch("alice", forged)
    post("forged", {}, **forged)
    is_as_before = stack.get("alice")["status"]["token"] == victim["status"]["token"]
    is_honest = "evil" not in stack.authorization_url("forged")
    log.add("forges a status", 4, "403, or dropped", kept=codes == [403, 403] and is_as_before and is_honest)

    # tokens of others
    reads = [f"configmaps/oauth-tokens{suffix}" for suffix in ("", "-1")] + ["secrets", "pods", "configmaps"]
    codes = [stack.request(author, "GET", path).status_code for path in reads]
    codes += [
        stack.request(author, "POST", f"serviceaccounts/{name}/token", {"spec": {}}, JSON).status_code for name in _OURS
    ]
    log.add("reads tokens, or asks for one", len(codes), "403", kept=set(codes) == {403})
    workload = {"federationRuleID": "fdrl_demo", "organizationID": victim["metadata"]["uid"]}
    for name in _OURS:
        given = {"grant": "WorkloadIdentity", "workloadIdentity": {**workload, "serviceAccountName": name}}
        post(f"as-{name}", given)
    said = all(stack.has_reason(f"as-{name}", "False") for name in _OURS)
    log.add("acts as the operator's ServiceAccount", 2, "the operator may not ask for that token", kept=said)

    # size and number
    codes = [post("long", {"expectedSubject": "x" * 70_000}), patch("alice", _annotated("y" * 300_000))]
    log.add("huge objects", 2, "refused by the API server", kept=all(code in (413, 422) for code in codes))
    crowd = {f"x.example/{number}": "z" * 100 for number in range(1000)}
    code = patch("bob", {"metadata": {"annotations": crowd}})
    log.add("1,000 annotations", 1, "stay on the object", kept=code == 200 and stack.is_well())
    for number in range(many):
        patch("bob", {"metadata": {"annotations": {"oauthpool.dev/login-requested": f"{number}"}}})
        patch("bob", {"metadata": {"annotations": {"oauthpool.dev/refresh-requested": f"{number}"}}})
        patch("bob", {"metadata": {"annotations": {"oauthpool.dev/authorization-code": secrets.token_urlsafe(20_000)}}})
    asked = len(stack.simulator.requests("/v1/oauth/token"))
    is_bounded = asked <= many + 20 and stack.is_well()  # one for each time, and the others go on
    log.add("asks for logins and refreshes in a loop", 3 * many, f"{asked} requests to the provider", kept=is_bounded)
    for number in range(many):
        post(f"crowd-{number}", {})
    log.add("accounts that nobody logs in", many, "wait, and cost the others nothing", kept=stack.is_well())

    # a name as a way out
    names = ("../alice", "a/b", "..", "A", "x" * 64, "a%2f..%2fb", "")
    codes = [post(name, {}) for name in names]
    is_clean = {path.name for path in stack.state_dir.iterdir() if path.is_dir()} <= _uids(stack) | {"lost+found"}
    log.add("names as paths", len(names), "422", kept=set(codes) <= {400, 422} and is_clean)


_OURS = ("oauth-pool-operator", "oauth-pool-proxy")


def _annotated(value: str) -> dict[str, object]:
    return {"metadata": {"annotations": {"x.example/huge": value}}}


def _uids(stack: HostileStack) -> set[str]:
    return set(stack.kubectl("get", "oauthaccounts", "-o", "jsonpath={.items[*].metadata.uid}").split())


@contextlib.contextmanager
def _listener() -> Iterator[tuple[str, list[object]]]:
    """A server of the author's, and who came."""
    connections: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(server.accept())

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/token", connections
        server.shutdown(socket.SHUT_RDWR)
