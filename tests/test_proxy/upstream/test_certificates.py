"""Whose certificates are trusted, and what is asked of them."""

import ssl
from pathlib import Path

import pytest

from oauth_pool_proxy.upstream.certificates import context_for
from tests.support.control_plane.certificates import write_certificates


@pytest.fixture(autouse=True)
def newer_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from 3.13 on, where the flag is set from the start."""
    create = ssl.create_default_context

    def strict(cafile: Path | None = None) -> ssl.SSLContext:
        context = create(cafile=cafile)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)


def test_a_private_authority_is_trusted_as_other_programs_trust_it(tmp_path: Path) -> None:
    write_certificates(tmp_path)
    context = context_for(tmp_path / "ca.crt")
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.check_hostname and context.verify_mode == ssl.CERT_REQUIRED
    assert context.cert_store_stats()["x509"] == 1


def test_public_ones_have_to_be_in_good_form() -> None:
    assert context_for(None).verify_flags & ssl.VERIFY_X509_STRICT
