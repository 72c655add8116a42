"""The files of the TLS context. They are read again when they change: certificates are replaced while the proxy runs."""

import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

from oauth_pool_proxy.config import ClientCertificate
from oauth_pool_proxy.upstream.certificates import context_for, offer_groups

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How long a change of a file may go unnoticed."""

Stamp = tuple[int, int, int]


class CertificateFiles:
    """The TLS context for new connections to the upstream, rebuilt when one of its files has changed.

    Open connections keep theirs. If a file becomes unusable, that is only logged. Raises `OSError` if a file is unusable at
    the start.
    """

    def __init__(
        self,
        ca_file: Path | None,
        client_certificate: ClientCertificate | None,
        clock: Callable[[], float],
        groups: tuple[str, ...] = (),
    ) -> None:
        self._ca_file, self._client_certificate, self._clock = ca_file, client_certificate, clock
        self._groups = groups
        pair = [client_certificate.certificate, client_certificate.key] if client_certificate else []
        self._files = [*([ca_file] if ca_file else []), *pair]
        self._seen = self._stamps()
        self._looked_at = clock()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        if self._files and self._clock() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = self._clock()
            self._look()
        return self._context

    def _look(self) -> None:
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        fields: dict[str, object] = {"files": [str(path) for path in self._files]}
        try:
            self._context = self._load()
        except OSError as error:
            fields["error"] = error.strerror
            log.warning("a certificate file cannot be used, the last good one is kept", extra={"fields": fields})
        else:
            log.info("the certificate files have changed", extra={"fields": fields})

    def _stamps(self) -> list[Stamp | None]:
        return [_stamp(path) for path in self._files]

    def _load(self) -> ssl.SSLContext:
        context = context_for(self._ca_file)
        context.set_alpn_protocols(["http/1.1"])
        offer_groups(context, self._groups)
        if shown := self._client_certificate:
            context.load_cert_chain(
                shown.certificate, shown.key, password=""
            )  # without one, OpenSSL asks on the terminal
        return context


def _stamp(path: Path) -> Stamp | None:
    """Changes when the file does. A Kubernetes volume replaces files, so the time alone is not enough."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
