"""`top`, live on a terminal and printed once, fed by a real API server."""

import os
import sys
from pathlib import Path

import pytest

from kubectl_oauthaccount.kubeconfig import connect
from kubectl_oauthaccount.top import Pool
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


def test_json_is_for_one_picture_only(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", ready("Available"))
    assert [row["name"] for row in plugin("top", "--once", "-o", "json").json] == ["alice"]
    assert plugin("top", "-o", "json").code == 2
    assert plugin("top", "--interval", "0").code == 2


def test_an_api_server_that_goes_away_is_told_and_followed_again(control_plane: ControlPlane, namespace: str) -> None:
    objects = Objects(control_plane, namespace)
    objects.create("alice", ready("Available"))
    objects.create("bob", ready("Available"))
    cluster = connect(str(control_plane.kubeconfig), None, namespace)
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
        cluster.client.close()
