"""What the operator does with a credential that a person handed over."""

import json
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from oauth_pool_operator.account.documents import Owner, Retained, fingerprint
from oauth_pool_operator.account.spec import CODE_ANNOTATION, IMPORT_ANNOTATION
from oauth_pool_operator.errors import ClusterUnavailable
from tests.support.builders import (
    NOW,
    UID,
    account,
    answer,
    credential,
    device_session,
    handed_over,
    session,
)
from tests.test_operator.test_reconcile import GOOD_CODE, LOST, NO_API_SERVER, World, world

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
OLD_UID = "3f8b7c1e-0000-4000-8000-00000000000f"
ASKED = account(annotations={IMPORT_ANNOTATION: "2026-11-20T12:00:00+00:00"})


def is_taken(w: World) -> bool:
    return w.store.imported(UID) is None and IMPORT_ANNOTATION not in w.cluster.object.annotations


async def test_it_is_stored_first_and_only_then_leaves_its_file_and_the_object(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED) as w:
        w.store.save_import(UID, handed_over())
        await w.reconcile()
        assert w.steps == ["credential", "annotation removed", "access file", "index", "status"]
        assert (w.credential.generation, w.credential.refresh_token) == (1, "imported-refresh-token")
        assert (w.reason("Ready"), w.published()["fingerprint"]) == ("Available", fingerprint("imported-access-token"))
        assert is_taken(w)
        assert w.store.session(UID) is None  # and no login is opened


async def test_it_is_taken_without_the_annotation_too(tmp_path: Path) -> None:
    """Whoever imported was killed before the object could be annotated."""
    async with world(tmp_path) as w:
        w.store.save_import(UID, handed_over())
        await w.reconcile()
        assert (w.reason("Ready"), w.store.imported(UID)) == ("Available", None)


async def test_it_replaces_a_credential_and_nothing_of_that_stays(tmp_path: Path) -> None:
    before = credential(generation=7, subject="alice", code_digest="abc")
    async with world(tmp_path, ASKED, credential=before) as w:
        w.store.save_import(UID, handed_over())
        await w.reconcile()
        assert (w.credential.generation, w.credential.subject) == (8, None)
        assert w.credential.previous_refresh_token is None


async def test_it_revives_an_account_whose_last_failure_still_holds_it_back(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED, credential=credential(expires_in=-MINUTE)) as w:
        await w.reconcile(LOST)
        w.store.save_import(UID, handed_over(expires=NOW + MINUTE))
        await w.reconcile(answer())
        assert w.endpoint.sent[-1] == "imported-refresh-token"
        assert (w.credential.generation, w.reason("Ready")) == (3, "Available")


@pytest.mark.parametrize(
    ("left", "is_refreshed"),
    [
        pytest.param(7 * HOUR, False, id="hours left"),
        pytest.param(20 * MINUTE, False, id="20 minutes left"),
        pytest.param(10 * MINUTE, True, id="10 minutes left"),
        pytest.param(-HOUR, True, id="expired"),
        pytest.param(timedelta(days=-20_000), True, id="nobody knows"),
    ],
)
async def test_one_that_is_about_to_expire_is_refreshed_at_once(
    tmp_path: Path, left: timedelta, is_refreshed: bool
) -> None:
    async with world(tmp_path, ASKED) as w:
        w.store.save_import(UID, handed_over(expires=NOW + left))
        await w.reconcile(answer())
        assert w.endpoint.sent == (["imported-refresh-token"] if is_refreshed else [])
        assert w.reason("Ready") == "Available"


async def test_an_end_that_nobody_knows_is_shown_as_now_and_not_as_1970(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED) as w:
        w.store.save_import(UID, handed_over(expires=NOW - timedelta(days=20_000)))
        await w.reconcile(LOST)
        assert w.reason("Ready") == "Refreshing"
        assert w.cluster.object.status["token"]["expirationTime"] == "2026-11-20T12:00:00Z"


async def test_one_that_the_provider_does_not_accept_says_so(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED) as w:
        w.store.save_import(UID, handed_over(expires=NOW - HOUR))
        await w.bury()
        assert (w.reason("Ready"), w.reason("LoginRequired")) == ("Disabled", "GrantRevoked")


async def test_an_operator_that_was_killed_on_the_way_does_not_take_it_twice(tmp_path: Path) -> None:
    """Stored, then refreshed, and the file is still there: taking it again would bring a spent refresh token back."""
    async with world(tmp_path, ASKED) as w:
        given = handed_over(expires=NOW - HOUR)
        w.store.save_import(UID, given)
        await w.reconcile(answer())
        w.store.save_import(UID, given)
        await w.reconcile()
        assert (w.credential.generation, w.credential.refresh_token) == (2, "refresh-token-2-of-a-test")
        assert is_taken(w)


async def test_an_api_server_that_is_away_does_not_make_it_taken_twice(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED) as w:
        w.store.save_import(UID, handed_over())
        w.cluster.failures["annotation removed"] = NO_API_SERVER
        with pytest.raises(ClusterUnavailable):
            await w.reconcile()
        w.cluster.failures.clear()
        await w.reconcile()
        assert (w.credential.generation, is_taken(w)) == (1, True)


async def test_another_one_that_comes_meanwhile_is_not_removed_with_the_first(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED) as w:
        first, second = handed_over(), handed_over(request="the-second", refresh_token="another")
        w.store.save_import(UID, second)
        w.store.end_import(UID, first)
        assert w.store.imported(UID) == second


async def test_it_waits_for_a_volume_that_takes_it(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED) as w:
        w.store.save_import(UID, handed_over())
        w.store.failures = 1
        due = await w.reconcile()
        assert (w.reason("Stalled"), w.store.imported(UID)) == ("StorageUnavailable", handed_over())
        w.now = due
        await w.reconcile()
        assert (w.reason("Ready"), is_taken(w)) == ("Available", True)


@pytest.mark.parametrize("open_login", [session(), device_session()], ids=["code", "device"])
async def test_a_login_that_is_open_is_over(tmp_path: Path, open_login: object) -> None:
    grant = "DeviceCode" if open_login == device_session() else "AuthorizationCode"
    of = account(grant=grant, annotations={IMPORT_ANNOTATION: "1"})
    async with world(tmp_path, of, session=open_login) as w:  # type: ignore[arg-type]
        w.store.save_import(UID, handed_over())
        await w.reconcile()
        assert (w.session.is_over, w.session.verifier, w.session.device_code) == (True, "", "")
        assert (w.reason("LoginRequired"), w.endpoint.sent) == ("NotRequired", [])


async def test_a_code_that_comes_with_it_leaves_the_object_all_the_same(tmp_path: Path) -> None:
    both = account(annotations={IMPORT_ANNOTATION: "1", CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, both, session=session()) as w:
        w.store.save_import(UID, handed_over())
        await w.reconcile()
        assert (w.cluster.object.annotations, w.endpoint.sent, w.reason("Ready")) == ({}, [], "Available")


async def test_a_suspended_account_takes_it_and_stays_suspended(tmp_path: Path) -> None:
    async with world(tmp_path, account(suspend=True, annotations={IMPORT_ANNOTATION: "1"})) as w:
        w.store.save_import(UID, handed_over(expires=NOW - HOUR))
        await w.reconcile()
        assert (w.credential.generation, w.reason("Ready"), w.endpoint.sent) == (1, "Suspended", [])


async def test_an_account_that_stores_no_credential_takes_none(tmp_path: Path) -> None:
    of = account(grant="WorkloadIdentity", annotations={IMPORT_ANNOTATION: "1"})
    async with world(tmp_path, of) as w:
        w.store.save_import(UID, handed_over())
        await w.reconcile(answer(refresh_token=None))
        assert w.credential.refresh_token is None
        assert is_taken(w)


async def test_a_damaged_file_is_removed_and_costs_nothing_else(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED, credential=credential()) as w:
        w.store.save_import(UID, handed_over())
        (w.store.state_dir / UID / "import.json").write_text('{"request": ')
        await w.reconcile()
        assert (w.credential, w.reason("Ready"), is_taken(w)) == (credential(), "Available", True)


async def test_a_state_volume_that_cannot_be_read_keeps_it_for_later(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED, credential=credential()) as w:
        w.store.save_import(UID, handed_over())
        (w.store.state_dir / UID / "credential.json").unlink()
        (w.store.state_dir / UID / "credential.json").mkdir()
        await w.reconcile()
        assert (w.reason("Ready"), w.store.imported(UID)) == ("StorageUnavailable", handed_over())
        assert IMPORT_ANNOTATION in w.cluster.object.annotations


async def test_it_takes_the_place_of_a_credential_that_is_damaged(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED, credential=credential(generation=4)) as w:
        await w.reconcile()
        w.store.save_import(UID, handed_over())
        (w.store.state_dir / UID / "credential.json").write_text("{")
        await w.reconcile()
        assert (w.credential.refresh_token, w.credential.generation, is_taken(w)) == (
            handed_over().refresh_token,
            5,
            True,
        )
        assert (w.reason("Ready"), w.reason("LoginRequired")) == ("Available", "NotRequired")


def retain(w: World, uid: str = OLD_UID) -> None:
    """What the operator leaves of a deleted account with deletionPolicy Retain."""
    w.store.save_credential(uid, credential(generation=9, refresh_token="imported-refresh-token"), replaces=0)
    note = Retained("claude-1", "pool", "anthropic", "AuthorizationCode", NOW)
    (w.store.state_dir / uid / "retained.json").write_bytes(msgspec.json.encode(note))


async def test_a_folder_that_holds_another_token_than_was_handed_over_stays(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED) as w:
        w.store.save_credential(OLD_UID, credential(refresh_token="somebody-s"), replaces=0)
        w.store.save_import(UID, handed_over(retained_uid=OLD_UID))
        await w.reconcile()
        assert w.store.credential(OLD_UID) is not None


async def test_what_was_retained_moves_and_nothing_stays_behind(tmp_path: Path) -> None:
    """Two accounts cannot share a refresh token."""
    async with world(tmp_path, ASKED) as w:
        retain(w)
        w.store.save_import(UID, handed_over(subject="alice", retained_uid=OLD_UID))
        await w.reconcile()
        assert (w.credential.generation, w.cluster.object.status["subject"]) == (1, "alice")
        assert not (w.store.state_dir / OLD_UID).exists()
        assert is_taken(w)


async def test_the_folder_of_an_account_that_lives_is_not_removed(tmp_path: Path) -> None:
    async with world(tmp_path, ASKED) as w:
        w.store.save_credential(OLD_UID, credential(), replaces=0)
        w.store.save_import(UID, handed_over(retained_uid=OLD_UID))
        await w.reconcile()
        assert w.store.credential(OLD_UID) == credential()


async def test_a_folder_says_whose_credential_it_holds(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential(expires_in=5 * MINUTE)) as w:
        await w.reconcile(answer())
        path = w.store.state_dir / UID / "account.json"
        assert json.loads(path.read_text()) == {
            "name": "claude-1",
            "namespace": "pool",
            "provider": "anthropic",
            "grant": "AuthorizationCode",
        }
        before = path.stat().st_mtime_ns
        w.store.save_owner(UID, Owner("claude-1", "pool", "anthropic", "AuthorizationCode"))
        assert path.stat().st_mtime_ns == before


async def test_a_folder_that_cannot_say_so_holds_its_credential_all_the_same(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential(expires_in=5 * MINUTE)) as w:
        (w.store.state_dir / UID / "account.json.new").mkdir()
        await w.reconcile(answer())
        assert (w.credential.generation, w.reason("Stalled")) == (2, None)


def test_what_was_handed_over_does_not_print_its_tokens() -> None:
    assert "imported" not in repr(handed_over())
