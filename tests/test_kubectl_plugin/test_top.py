"""`top`, live on a terminal and printed once, fed by a real API server."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from kubectl_oauthaccount.cluster import Cluster
from kubectl_oauthaccount.kubeconfig import connect
from kubectl_oauthaccount.options import ClusterOptions
from kubectl_oauthaccount.pool import Pool
from tests.support.control_plane import ControlPlane, wait_until
from tests.support.pseudo_terminal import on_terminal
from tests.test_kubectl_plugin.conftest import Objects, Plugin, condition


def ready(reason: str) -> dict[str, object]:
    return {"conditions": [condition("Ready", "True" if reason == "Available" else "False", reason)]}


def test_a_change_is_drawn_at_once_and_ctrl_c_is_the_way_out(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", ready("Available"))
    command = (str(Path(sys.executable).with_name("kubectl-oauthaccount")), "-n", plugin.namespace, "top")
    environment = os.environ | {"KUBECONFIG": str(plugin.kubeconfig)}
    # an interval longer than any wait here: what is drawn is drawn because something changed
    with on_terminal(*command, "--interval", "3600", environment=environment) as terminal:
        terminal.wait_for("alice")
        objects.set_status("alice", ready("CoolingDown"))
        terminal.wait_for("1 CoolingDown")
        objects.create("bob", ready("Available"))
        terminal.wait_for("bob")
        terminal.wait_for("2 accounts")
        before = len(terminal.printed)
        objects.delete("alice")
        terminal.wait_for("1 account:", after=before)
        terminal.wait_for("TIER/WEIGHT", after=before)
        before = len(terminal.printed)
        terminal.resize(70, 20)
        terminal.wait_for("bob", after=before)
        if "TIER/WEIGHT" in terminal.printed[before:]:  # a picture that was on its way
            before = terminal.printed.rindex("TIER/WEIGHT") + len("TIER/WEIGHT")
            terminal.wait_for("NAME", after=before)
        assert "TIER/WEIGHT" not in terminal.printed[before:]
        terminal.press_ctrl_c()
        assert terminal.wait() == 0
    assert "Traceback" not in terminal.printed


@pytest.mark.parametrize(("more", "colours"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["terminal", "NO_COLOR"])
def test_colours_are_for_terminals_that_want_them(
    objects: Objects, plugin: Plugin, more: dict[str, str], colours: bool
) -> None:
    objects.create("alice", ready("CoolingDown"))
    command = (str(Path(sys.executable).with_name("kubectl-oauthaccount")), "-n", plugin.namespace, "top", "--once")
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"KUBECONFIG": str(plugin.kubeconfig), **more}
    with on_terminal(*command, environment=environment) as terminal:
        assert terminal.wait() == 0
    assert "CoolingDown" in terminal.printed
    assert ("\x1b[33m" in terminal.printed) is colours


def test_without_a_terminal_it_prints_once(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", ready("Available"))
    objects.create("bob", ready("CoolingDown"))
    outcome = plugin("top")
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.split()[0] for line in outcome.out.splitlines()[2:]] == ["NAME", "bob", "alice"]
    assert "\x1b" not in outcome.out


def test_who_forces_colours_without_a_terminal_gets_one_picture_in_colours(
    objects: Objects, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.create("alice", ready("CoolingDown"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    outcome = plugin("top")
    assert outcome.code == 0
    assert "\x1b[33m" in outcome.out


def test_json_is_for_one_picture_only(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", ready("Available"))
    assert [row["name"] for row in plugin("top", "--once", "-o", "json").json] == ["alice"]
    assert plugin("top", "-o", "json").code == 2
    assert plugin("top", "--interval", "0").code == 2


def test_an_api_server_that_goes_away_is_told_and_followed_again(control_plane: ControlPlane, namespace: str) -> None:
    objects = Objects(control_plane, namespace)
    objects.create("alice", ready("Available"))
    objects.create("bob", ready("Available"))
    cluster = connect(ClusterOptions(kubeconfig=str(control_plane.kubeconfig), namespace=namespace))
    pool = Pool(cluster)
    pool.start()
    control_plane.kill_api_server()
    try:
        wait_until(lambda: "cannot be reached" in pool.state()[1], "the trouble to be told")
        assert len(pool.state()[0]) == 2  # what was last seen stays
    finally:
        control_plane.start_api_server()
    objects.delete("bob")
    objects.set_status("alice", ready("CoolingDown"))

    def is_fresh() -> bool:
        accounts, trouble = pool.state()
        return [account.status_word for account in accounts] == ["CoolingDown"] and not trouble

    try:
        wait_until(is_fresh, "the new state")
    finally:
        pool.stop()
        objects.delete("alice")  # the event that ends it
        cluster.client.rest_client.pool_manager.clear()


BROKEN_WATCHES = (
    b"<html>a gateway's page</html>\n",
    b'{"type": "ADDED"}\n',
    b'{"type": "ADDED", "object": 7}\n',
    b'{"object": {}}\n',
    b"[]\n",
    b'{"type": "ERROR", "object": {}}\n',
    b'{"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}\n',
    b'{"type": "MODIFIED", "object": {"metadata": null, "status": []}}\n',
    b"\xff\xfe\x00",
)


class BrokenServer:
    """What stands before an API server, whose lists are good and whose watches are each broken in another way."""

    def __init__(self) -> None:
        self.watches = iter(BROKEN_WATCHES)
        self.names = ["alice"]

    def answer(self, path: str) -> bytes:
        if "watch=true" not in path.lower():
            items = [{"metadata": {"name": name, "namespace": "here"}} for name in self.names]
            return json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode()
        watch = next(self.watches, None)
        if watch is None:
            self.names = ["alice", "bob"]  # to be seen by those who still look
        return watch or b""


@contextmanager
def serving(server: BrokenServer, folder: Path) -> Iterator[Cluster]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            body = server.answer(self.path)
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    config = {
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{http.server_port}"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    try:
        yield connect(ClusterOptions(kubeconfig=str(folder / "kubeconfig"), namespace="here"))
    finally:
        http.shutdown()
        http.server_close()


def test_whatever_the_watch_does_the_pool_is_followed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen that stands still without a word looks like a pool where nothing happens."""
    monkeypatch.setattr("kubectl_oauthaccount.pool.LAST_RETRY", 0.05)
    monkeypatch.setattr("kubectl_oauthaccount.pool.FIRST_RETRY", 0.05)
    told = set()
    with serving(BrokenServer(), tmp_path) as cluster:
        pool = Pool(cluster)
        pool.start()

        def has_seen_it_all() -> bool:
            accounts, trouble = pool.state()
            told.add(trouble)
            return [account.name for account in accounts] == ["alice", "bob"]

        wait_until(has_seen_it_all, "what came after all that was broken")
        pool.stop()
    assert "the watch failed (KeyError) and is being restarted (this is the state of 0s ago)" in told


def test_a_server_that_has_fallen_silent_is_told_with_the_age_of_what_is_shown(tmp_path: Path) -> None:
    clock = [1000.0]
    with serving(BrokenServer(), tmp_path) as cluster:
        pool = Pool(cluster, clock=lambda: clock[0])
        pool.reload()
        clock[0] += 60  # bookmarks may take so long
        assert pool.state()[1] == ""
        clock[0] += 61
        accounts, trouble = pool.state()
        assert trouble == "the API server is silent (this is the state of 2m1s ago)"
        assert [account.name for account in accounts] == ["alice"]


def test_accounts_of_all_namespaces_are_followed(control_plane: ControlPlane, namespace: str) -> None:
    here, there = Objects(control_plane, namespace), Objects(control_plane, control_plane.namespace())
    for objects in (here, there):
        objects.create("alice", ready("Available"))
        objects.set_metadata("alice", {"labels": {"of": namespace}})
    cluster = connect(ClusterOptions(kubeconfig=str(control_plane.kubeconfig), namespace=namespace))
    pool = Pool(cluster, selector=f"of={namespace}", everywhere=True)
    pool.start()
    assert pool.namespace is None
    there.set_status("alice", ready("CoolingDown"))

    def words() -> dict[str, str]:
        return {account.namespace: account.status_word for account in pool.state()[0]}

    wait_until(lambda: words() == {here.namespace: "Available", there.namespace: "CoolingDown"}, "the change elsewhere")
    pool.stop()
    there.delete("alice")  # the event that ends it
