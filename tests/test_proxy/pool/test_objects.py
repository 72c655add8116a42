"""Files and batches are asked for where they were made, as long as that is remembered."""

import pytest

from oauth_pool_proxy.pool.objects import LIFETIME, MOST, Objects, creates_object, object_of

FILE, BATCH = "file_011CNha8iCJcU1wXNR6q4V8w", "msgbatch_01HkcTjaV5uDC8jWR4ZsDV8d"


@pytest.mark.parametrize(
    ("method", "path", "object_id"),
    [
        ("GET", f"/v1/files/{FILE}", FILE),
        ("HEAD", f"/v1/files/{FILE}", FILE),
        ("DELETE", f"/v1/files/{FILE}", FILE),
        ("GET", f"/v1/files/{FILE}/content", FILE),
        ("GET", f"/v1/messages/batches/{BATCH}", BATCH),
        ("GET", f"/v1/messages/batches/{BATCH}/results", BATCH),
        ("DELETE", f"/v1/messages/batches/{BATCH}", BATCH),
        ("POST", f"/v1/messages/batches/{BATCH}/cancel", BATCH),
        ("POST", f"/v1/messages/batches/{BATCH}", None),
        ("POST", f"/v1/files/{FILE}/cancel", None),
        ("PUT", f"/v1/files/{FILE}", None),
        ("GET", "/v1/files", None),
        ("GET", "/v1/files/", None),
        ("GET", "/v1/files//content", None),
        ("GET", "/v1/messages/batches", None),
        ("GET", "/v1/models/claude", None),
        ("GET", f"/v2/files/{FILE}", None),
        ("GET", f"/x/v1/files/{FILE}", None),
        ("GET", "/v1/files/" + "a" * 129, None),
        ("GET", "/v1/files/%2e%2e", None),
    ],
)
def test_a_request_is_about_the_object_that_its_path_names(method: str, path: str, object_id: str | None) -> None:
    assert object_of(method, path) == object_id
    assert not creates_object(method, path)


def test_only_a_post_to_a_collection_makes_an_object() -> None:
    assert creates_object("POST", "/v1/files") and creates_object("POST", "/v1/messages/batches")
    assert not creates_object("GET", "/v1/files") and not creates_object("POST", "/v1/messages")


def test_an_object_s_owner_is_remembered_and_that_of_another_is_not_known() -> None:
    objects = Objects()
    objects.remember(FILE, "uid-a", 0)
    objects.remember(BATCH, "uid-b", 0)
    assert [objects.owner(known, 1) for known in (FILE, BATCH, "file_other")] == ["uid-a", "uid-b", None]
    objects.remember(FILE, "uid-c", 2)
    assert objects.owner(FILE, 3) == "uid-c"


def test_an_object_that_nobody_asks_for_is_forgotten_after_thirty_days() -> None:
    objects = Objects()
    objects.remember(FILE, "uid-a", 0)
    assert objects.owner(FILE, LIFETIME - 1) == "uid-a"
    assert objects.owner(FILE, 2 * LIFETIME - 2) == "uid-a"
    assert objects.owner(FILE, 3 * LIFETIME - 2) is None


def test_only_so_many_are_remembered_and_the_one_used_longest_ago_goes_first() -> None:
    objects = Objects()
    for number in range(MOST):
        objects.remember(str(number), "uid-a", 0)
    objects.owner("0", 1)
    objects.remember("one more", "uid-a", 2)
    assert len(objects) == MOST
    assert [objects.owner(known, 3) is not None for known in ("0", "1", "one more")] == [True, False, True]


def test_those_that_are_over_make_room_a_few_at_a_time() -> None:
    objects = Objects()
    for number in range(9):
        objects.remember(str(number), "uid-a", 0)
    sizes = []
    for number in range(8):
        objects.remember(f"new {number}", "uid-a", LIFETIME)
        sizes.append(len(objects))
    assert sizes == [8, 7, 6, 5, 5, 6, 7, 8]
