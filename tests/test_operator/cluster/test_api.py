"""What is asked of the API server: requests that cannot hit the wrong object, and refusals that say what to do."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from lightkube.core.exceptions import ApiError

from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.config_maps import SharedMap
from oauth_pool_operator.errors import ServiceAccountTokenRefused
from tests.support.api_server import ApiServer, Call, api_server
from tests.support.builders import NOW, UID, account

OBJECT = {
    "metadata": {"name": "claude-1", "namespace": "pool", "uid": UID, "resourceVersion": "8"},
    "spec": {"provider": "anthropic", "grant": "AuthorizationCode"},
}
ACCOUNT = account(resource_version="7")
INDEX = {"name": "oauth-pool", "labels": {"oauthpool.dev/index": "1"}}


@asynccontextmanager
async def cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Cluster, ApiServer]]:
    async with api_server() as api:
        config = folder / "kubeconfig"
        config.write_text(
            json.dumps(
                {
                    "clusters": [{"name": "c", "cluster": {"server": api.url}}],
                    "users": [{"name": "u", "user": {}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        monkeypatch.setenv("KUBECONFIG", str(config))
        made = Cluster("pool", "oauth-pool")
        try:
            yield made, api
        finally:
            await made.close()


def failure(status: int) -> dict[str, object]:
    return {"kind": "Status", "status": "Failure", "code": status, "reason": "Because", "message": "m"}


async def test_finalizers_are_replaced_only_in_the_version_that_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        patching = asyncio.create_task(made.patch_metadata(ACCOUNT, {"finalizers": ["a"]}))
        call = await api.call()
        await call.answer(OBJECT)
        assert (await patching).resource_version == "8"
        assert call.body == {"metadata": {"finalizers": ["a"], "resourceVersion": "7"}}
        assert call.content_type == "application/merge-patch+json"


async def test_a_list_is_shown_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All objects of a large pool at the same time would take a lot of memory."""
    async with cluster(tmp_path, monkeypatch) as (made, api):
        seen: list[str] = []
        showing = asyncio.create_task(made.show_all(lambda body: seen.append(body["metadata"]["name"])))
        first = await api.call()
        assert first.query["limit"] == "50"
        await first.answer({"metadata": {"continue": "there is more"}, "items": [OBJECT]})
        second = await api.call()
        assert second.query["continue"] == "there is more"
        assert seen == ["claude-1"]
        await second.answer({"metadata": {}, "items": [OBJECT]})
        await showing
        assert seen == ["claude-1", "claude-1"]


async def test_status_is_written_to_this_very_object_and_not_to_a_newer_one_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        patching = asyncio.create_task(made.patch_status(ACCOUNT, {"subject": "alice"}))
        call = await api.call()
        await call.answer(OBJECT)
        await patching
        assert call.path.endswith("/namespaces/pool/oauthaccounts/claude-1/status")
        assert call.body == {"metadata": {"uid": UID}, "status": {"subject": "alice"}}


PASTED = msgspec.structs.replace(ACCOUNT, annotations={"oauthpool.dev/code": "the-first"})


async def test_an_annotation_is_taken_off_as_it_was_seen_and_whatever_else_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        patching = asyncio.create_task(made.remove_annotation(PASTED, "oauthpool.dev/code"))
        call = await api.call()
        await call.answer(OBJECT)
        await patching
        assert call.content_type == "application/json-patch+json"
        path = "/metadata/annotations/oauthpool.dev~1code"
        assert call.body == [
            {"op": "test", "path": "/metadata/uid", "value": UID},
            {"op": "test", "path": path, "value": "the-first"},
            {"op": "remove", "path": path},
        ]


async def test_an_annotation_that_was_changed_meanwhile_stays_and_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = {**OBJECT, "metadata": {**OBJECT["metadata"], "annotations": {"oauthpool.dev/code": "the-second"}}}
    async with cluster(tmp_path, monkeypatch) as (made, api):
        patching = asyncio.create_task(made.remove_annotation(PASTED, "oauthpool.dev/code"))
        await (await api.call()).answer({"kind": "Status", "code": 422, "message": "test failed"}, 422)
        await (await api.call()).answer(newer)
        assert (await patching).annotations == {"oauthpool.dev/code": "the-second"}


async def test_taking_keys_out_of_an_index_that_is_gone_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        writing = asyncio.create_task(made.write_index(0, {"claude-1": None}, whole={}, shards=1))
        await (await api.call()).answer({"kind": "Status", "code": 404, "message": "not found"}, 404)
        await writing  # a second request would have nobody to answer it


async def test_an_event_is_about_this_very_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        posting = asyncio.create_task(made.post_event(ACCOUNT, "Warning", "Disabled", "m", NOW))
        call = await api.call()
        await call.answer(call.body, 201)
        await posting
        assert call.body is not None
        assert (call.body["involvedObject"]["uid"], call.body["reason"]) == (UID, "Disabled")


async def test_a_service_account_token_is_for_the_provider_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        asking = asyncio.create_task(made.service_account_token("inference", "https://provider.example"))
        call = await api.call()
        await call.answer(
            {**(call.body or {}), "status": {"token": "t", "expirationTimestamp": "2026-11-20T12:10:00Z"}}
        )
        assert await asking == "t"
        assert call.path.endswith("/namespaces/pool/serviceaccounts/inference/token")
        assert call.body is not None
        assert call.body["spec"] == {"audiences": ["https://provider.example"], "expirationSeconds": 600}


@pytest.mark.parametrize(
    ("status", "expected", "says"),
    [
        pytest.param(
            404, ServiceAccountTokenRefused, "there is no ServiceAccount inference in namespace pool", id="404"
        ),
        pytest.param(
            403, ServiceAccountTokenRefused, r"serviceaccounts/token with resourceNames \[inference\]", id="403"
        ),
        pytest.param(422, ServiceAccountTokenRefused, "422 Because", id="422"),
        pytest.param(503, ApiError, "m", id="503 passes"),
    ],
)
async def test_a_refused_service_account_token_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, expected: type[Exception], says: str
) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        asking = asyncio.create_task(made.service_account_token("inference", "https://provider.example"))
        await (await api.call()).answer(failure(status), status)
        with pytest.raises(expected, match=says):
            await asking


@pytest.mark.parametrize(
    ("shard", "shards", "annotations"),
    [
        pytest.param(0, 1, {}, id="the only one"),
        pytest.param(0, 3, {"oauthpool.dev/shards": "3"}, id="the first of three"),
        pytest.param(2, 3, {}, id="the last of three"),
    ],
)
async def test_an_index_that_is_there_is_changed_and_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int, shards: int, annotations: dict[str, str]
) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        changes = {"a": "1", "gone": None}
        writing = asyncio.create_task(made.write_index(shard, changes, whole={"a": "1", "b": "2"}, shards=shards))
        call = await api.call()
        await call.answer({"metadata": INDEX})
        await writing
        assert call.path.endswith("oauth-pool" + (f"-{shard}" if shard else ""))
        assert call.body == {"metadata": {"labels": INDEX["labels"], "annotations": annotations}, "data": changes}


@pytest.mark.parametrize("changes", [{"a": "1"}, {}], ids=["a key", "only how many there are"])
async def test_an_index_that_is_not_there_is_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None]
) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        writing = asyncio.create_task(made.write_index(0, changes, whole={"a": "1", "b": "2"}, shards=2))
        await (await api.call()).answer(failure(404), 404)
        call: Call = await api.call()
        await call.answer({"metadata": INDEX}, 201)
        await writing
        assert call.method == "POST"
        assert call.body is not None
        assert call.body["metadata"] == INDEX | {"annotations": {"oauthpool.dev/shards": "2"}}
        assert call.body["data"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize(("said", "shards"), [("3", 3), ("", 1), ("many", 1), ("-1", 1), ("\u0663", 1)])
async def test_how_many_config_maps_there_are_is_read_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, shards: int
) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        reading = asyncio.create_task(made.read_index(0))
        metadata = INDEX | {"annotations": {"oauthpool.dev/shards": said}}
        await (await api.call()).answer({"metadata": metadata, "data": {"a": "1"}})
        assert await reading == SharedMap({"a": "1"}, shards)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param({"oauthpool.dev/index": "1"}, {"a": "1"}, id="labelled"),
        pytest.param({}, {}, id="not labelled"),
        pytest.param(None, {}, id="without labels"),
    ],
)
async def test_an_index_that_readers_cannot_find_reads_as_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: dict[str, str] | None, expected: dict[str, str]
) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        reading = asyncio.create_task(made.read_index(0))
        await (await api.call()).answer({"metadata": {"name": "oauth-pool", "labels": labels}, "data": {"a": "1"}})
        assert (await reading).data == expected


async def test_only_an_index_that_does_not_exist_reads_as_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, monkeypatch) as (made, api):
        reading = asyncio.create_task(made.read_index(0))
        await (await api.call()).answer(failure(404), 404)
        assert await reading == SharedMap({})
        reading = asyncio.create_task(made.read_index(0))
        await (await api.call()).answer(failure(500), 500)
        with pytest.raises(ApiError):
            await reading
