"""Who is served: proxies that are as they should be, the oldest first, and nobody whom a hostile object could harm."""

import base64
from typing import Any

import pytest

from oauth_pool_operator.cluster import hpke
from oauth_pool_operator.cluster.proxies import MOST_PROXIES, Proxies
from tests.support.declared_proxies import OF_SMALL_ORDER, DeclaredProxy


class Told(Proxies):
    """Notes what it tells of changes."""

    def __init__(self) -> None:
        super().__init__(hpke.is_usable)
        self.changes: list[str] = []
        self.on_change = lambda somebody_joined: self.changes.append("joined" if somebody_joined else "left")

    @property
    def pods(self) -> list[str]:
        return [proxy.pod for proxy in self.served]


def test_a_proxy_joins_and_leaves() -> None:
    proxies, one = Told(), DeclaredProxy("proxy-1")
    proxies.observe("ADDED", one.observed)
    assert [(proxy.pod, proxy.key) for proxy in proxies.served] == [("proxy-1", one.key)]
    proxies.observe("DELETED", one.observed)
    assert (proxies.pods, proxies.changes) == ([], ["joined", "left"])


def test_what_a_proxy_says_of_its_tokens_is_no_change() -> None:
    proxies, one = Told(), DeclaredProxy("proxy-1")
    for _ in range(3):
        proxies.observe("MODIFIED", one.observed | {"status": {"tokens": 7}})
    assert proxies.changes == ["joined"]


def test_a_proxy_that_is_being_deleted_has_left() -> None:
    proxies, one = Told(), DeclaredProxy("proxy-1")
    proxies.observe("ADDED", one.observed)
    going = one.observed
    going["metadata"]["deletionTimestamp"] = "2026-11-20T12:00:00Z"
    proxies.observe("MODIFIED", going)
    assert proxies.pods == []


def test_a_new_key_counts_and_an_old_event_that_comes_late_does_not() -> None:
    proxies, one = Told(), DeclaredProxy("proxy-1")
    old = one.observed
    one.renew_key()
    proxies.observe("MODIFIED", one.observed)
    proxies.observe("MODIFIED", old)
    assert [proxy.key for proxy in proxies.served] == [one.key]


def test_of_two_objects_of_one_pod_the_newer_counts() -> None:
    proxies = Told()
    old = DeclaredProxy("proxy-1", uid="the-old", created="2026-11-20T12:00:00Z")
    new = DeclaredProxy("proxy-1", uid="the-new", created="2026-11-20T12:00:05Z")
    proxies.observe("ADDED", new.observed)
    proxies.observe(None, old.observed)  # which the watch has not told of yet that it is gone
    assert [proxy.key for proxy in proxies.served] == [new.key]
    proxies.observe("DELETED", old.observed)
    assert [proxy.key for proxy in proxies.served] == [new.key]


def test_a_ghost_goes_with_the_next_list_and_who_came_while_it_was_made_stays() -> None:
    proxies = Told()
    ghost, stays, comes = (DeclaredProxy(name) for name in ("ghost", "stays", "comes"))
    proxies.observe("ADDED", ghost.observed)
    proxies.observe("ADDED", stays.observed)
    before = proxies.uids
    proxies.observe("ADDED", comes.observed)
    proxies.compare(before, [stays.observed])
    assert proxies.pods == ["comes", "stays"]


def changed(what: str, value: object) -> dict[str, Any]:
    """A proxy's object with one thing that is not as it should be."""
    found = DeclaredProxy("bad").observed
    if what == "publicKey":
        found["spec"][what] = value
    else:
        found["metadata"]["ownerReferences"] = value
    return found


POD = {"apiVersion": "v1", "kind": "Pod", "name": "bad", "uid": "some"}


@pytest.mark.parametrize(
    ("hostile", "why"),
    [
        pytest.param(changed("owner", []), "its only owner has to be the pod of its name", id="no owner"),
        pytest.param(changed("owner", [POD, POD]), "its only owner has to be the pod of its name", id="two owners"),
        pytest.param(changed("owner", [POD | {"name": "other"}]), "its only owner has to be", id="another pod"),
        pytest.param(changed("owner", [POD | {"kind": "Node"}]), "its only owner has to be", id="another kind"),
        pytest.param(
            changed("owner", [POD | {"apiVersion": "evil/v1"}]), "its only owner has to be", id="another group"
        ),
        pytest.param(changed("owner", ["x"]), "Expected `object`, got `str`", id="owner of another type"),
        pytest.param(changed("publicKey", "!" * 44), "is not base64", id="not base64"),
        pytest.param(changed("publicKey", "é" * 44), "is not base64", id="not ASCII"),
        pytest.param(changed("publicKey", base64.b64encode(bytes(31)).decode()), "has 31 bytes", id="too short"),
        pytest.param(changed("publicKey", 7777), "Expected `str`, got `int`", id="key of another type"),
        pytest.param(changed("publicKey", OF_SMALL_ORDER), "of small order", id="small order"),
        pytest.param({**DeclaredProxy("bad").observed, "spec": None}, "Expected `object`, got `null`", id="no spec"),
    ],
)
def test_an_object_that_is_not_as_it_should_be_gets_nothing_and_harms_nobody(
    hostile: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxies, good = Told(), DeclaredProxy("good")
    for kind in ("ADDED", "MODIFIED", None):
        proxies.observe(kind, hostile)
    proxies.observe("ADDED", good.observed)
    proxies.compare(proxies.uids, [hostile, good.observed])
    assert (proxies.pods, proxies.counts()) == (["good"], {"served": 1, "refused": 1, "over_limit": 0})
    (said,) = caplog.messages  # once, and the key is not in it
    assert said.startswith("OAuthProxy bad gets no tokens: ")
    assert why in said
    assert str((hostile["spec"] or {}).get("publicKey", "the key")) not in said


def test_one_that_is_mended_is_served_and_told_of_again_when_it_breaks_again(caplog: pytest.LogCaptureFixture) -> None:
    proxies, one = Told(), DeclaredProxy("proxy-1")
    for _ in range(2):
        bad = one.observed
        bad["metadata"]["ownerReferences"] = []
        proxies.observe("MODIFIED", bad)
        proxies.observe("MODIFIED", one.observed)
    assert (proxies.pods, len(caplog.messages)) == (["proxy-1"], 2)


def test_the_oldest_hundred_are_served_and_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    proxies = Told()
    crowd = [
        DeclaredProxy(f"proxy-{number:03}", created=f"2026-11-20T12:{number // 60:02}:{number % 60:02}Z")
        for number in range(MOST_PROXIES + 3)
    ]
    for one in reversed(crowd):
        proxies.observe("ADDED", one.observed)
    assert proxies.pods == [one.pod for one in crowd[:MOST_PROXIES]]
    assert proxies.counts() == {"served": MOST_PROXIES, "refused": 0, "over_limit": 3}
    assert len(caplog.messages) == 1
    proxies.observe("DELETED", crowd[0].observed)
    assert proxies.pods == [one.pod for one in crowd[1 : MOST_PROXIES + 1]]
