"""Sets which certificates are trusted, and how keys are exchanged."""

import ssl
from pathlib import Path


def context_for(ca_file: Path | None) -> ssl.SSLContext:
    """A context that trusts only the authorities in this PEM file, or those of the system.

    Python 3.13 and newer also require the extensions that RFC 5280 demands of an authority. Many clusters' and companies' own
    CAs lack them, and kubectl, curl and Go programs do not require them. Raises OSError if the file is not such a PEM file.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is not None:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def offer_groups(context: ssl.SSLContext, groups: tuple[str, ...]) -> None:
    """Exchange keys only in these groups (RFC 8446 4.2.7), by OpenSSL's names. Without any, OpenSSL chooses.

    Raises `ValueError` with the reason if this OpenSSL does not know a name, or this Python cannot set that many.
    """
    if not groups:
        return
    set_groups = getattr(context, "set_groups", None)  # Python 3.15 and newer
    if set_groups is None and len(groups) > 1:
        raise ValueError("this Python can set one group only (3.15 and newer can set several)")
    try:
        if set_groups:
            set_groups(":".join(groups))
        else:
            context.set_ecdh_curve(groups[0])
    except (ValueError, ssl.SSLError):
        raise ValueError(f"{ssl.OPENSSL_VERSION} has no such group, or this Python cannot set it") from None
