"""Which models a request would use, as far as any server could read it."""

import pytest

from oauth_pool_proxy.pool.asked_models import asked_models


@pytest.mark.parametrize(
    ("body", "models"),
    [
        (b"", []),
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
    assert asked_models("/v1/messages", body) == models


def test_a_file_has_no_model() -> None:
    assert asked_models("/v1/files", b"--form") == []
    assert asked_models("/v1/files/../messages", b"--form") is None
