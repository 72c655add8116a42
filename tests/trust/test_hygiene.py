"""The trial of hygiene in its short form, and whether its search finds anything at all."""

import base64
import secrets
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.support.control_plane import ControlPlane

from . import hygiene
from .canaries import Canaries


@pytest.mark.timeout(300)  # some 25 s on two cores
def test_no_secret_is_anywhere_but_on_the_state_volume_whatever_happens(control_plane: ControlPlane) -> None:
    report = hygiene.run_on(control_plane, 1, lambda _: None)
    assert not report.failures, "\n".join([*report.failures, report.table])
    assert all(int(str(secrets_looked_for)) > 20 for _, _, secrets_looked_for, _ in report.rows)


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(lambda secret: secret, id="as it is"),
        pytest.param(lambda secret: secret[5:25], id="a part of it"),
        pytest.param(lambda secret: quote(secret, safe=""), id="percent-encoded"),
        pytest.param(lambda secret: secret.encode().hex(), id="in hexadecimal digits"),
        *(
            pytest.param(
                lambda secret, before=before: base64.b64encode(b"x" * before + secret.encode() + b"y").decode(),
                id=f"in base64, {before} bytes into a text",
            )
            for before in range(5)
        ),
        pytest.param(lambda secret: base64.urlsafe_b64encode(f"Bearer {secret}".encode()).decode(), id="in base64url"),
    ],
)
def test_a_secret_is_found_in_any_form(encoded: Callable[[str], str]) -> None:
    secret = f"/+{secrets.token_urlsafe(24)}+/"
    canaries = Canaries()
    canaries.add("token", secret)
    assert canaries.found_in(f"before {encoded(secret)} after") == {"token"}
    assert canaries.found_in(f"before {encoded(secrets.token_urlsafe(24))} after") == set()
