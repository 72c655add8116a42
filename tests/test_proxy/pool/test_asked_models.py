"""Which models a request would use, as far as any server could read it."""

import pytest

from oauth_pool_proxy.pool.asked_models import asked_models, only_model
from oauth_pool_proxy.pool.request_body import members_of


@pytest.mark.parametrize(
    ("body", "models"),
    [
        (b"{}", []),
        (b'{"model":"a","messages":[{"model":"not this one"}]}', ["a"]),
        (b'{"m\\u006fdel":"a"}', ["a"]),
        (b'{"MODEL":"a","model":"b","Model":"c"}', ["a", "b", "c"]),
        (b'{"model":"a","model":"b"}', ["b"]),
        (b'{"requests":[{"params":{"model":"a"}},{"Params":{"Model":"b"}},{"custom_id":"c"}]}', ["a", "b"]),
        (b'{"model":null}', None),
        (b'{"model":["a"]}', None),
        (b'{"requests":"a"}', None),
        (b'[{"model":"a"}]', None),
        (b'{"model":"a"', None),
        (b"\x1f\x8b\x08", None),
        (b'\xef\xbb\xbf{"model":"a"}', None),
        (b'{"requests":' * 2000, None),
    ],
)
def test_every_spelling_counts_and_what_cannot_be_read_is_told(body: bytes, models: list[str] | None) -> None:
    assert asked_models("/v1/messages", members_of(body)) == models


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (b'{"model":"a","messages":[],"max_tokens":1}', b'"a"'),
        (b'{"model":"a","model":"b"}', b'"b"'),
        (b'{"messages":[]}', None),
        (b'{"model":"a","Model":"b"}', None),
        (b'{"model":"a","requests":[]}', None),
        (b'{"model":"a","something new":1}', None),
        (b"[]", None),
    ],
)
def test_the_only_model_is_known_as_it_is_written(body: bytes, written: bytes | None) -> None:
    model = only_model(members_of(body))
    assert (None if model is None else bytes(model)) == written


def test_a_file_has_no_model() -> None:
    assert asked_models("/v1/files", members_of(b"--form")) == []
    assert asked_models("/v1/files/../messages", members_of(b"--form")) is None
