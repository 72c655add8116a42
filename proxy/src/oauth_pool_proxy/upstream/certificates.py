"""Which certificates are trusted, and how keys are exchanged."""

import ssl
from pathlib import Path


def context_for(ca_file: Path | None) -> ssl.SSLContext:
    """Trusts the authorities in this PEM file alone, or those of the system.

    Python 3.13 and newer also demand the extensions that RFC 5280 asks of an authority. Many a cluster's or company's
    own CA has not got them, and kubectl, curl and every Go program do without. Raises OSError for a file that is none.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is not None:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def offer_groups(context: ssl.SSLContext, groups: tuple[str, ...]) -> None:
    """Exchange keys in these groups only (RFC 8446 4.2.7), by OpenSSL's names; none are those of OpenSSL's own choice.

    `ValueError`, with the reason, for a name that this OpenSSL does not know, or for more of them than this Python can set.
    """
    if not groups:
        return
    set_groups = getattr(context, "set_groups", None)  # of Python 3.15 and newer
    if set_groups is None and len(groups) > 1:
        raise ValueError("this Python can set one group only (3.15 and newer can set several)")
    try:
        if set_groups:
            set_groups(":".join(groups))
        else:
            context.set_ecdh_curve(groups[0])
    except (ValueError, ssl.SSLError):
        raise ValueError(f"{ssl.OPENSSL_VERSION} has no such group, or this Python cannot set it") from None
