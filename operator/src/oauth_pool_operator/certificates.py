"""What a certificate must have besides a good signature."""

import ssl


def as_others_verify(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context, set to verify as kubectl, curl and every Go program do.

    Python 3.13 and newer also demand the extensions that RFC 5280 requires of an authority. The CA of many clusters and
    companies lacks them, and their administrators cannot always change that.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def context_for(ca_file: str | None) -> ssl.SSLContext:
    """Trusts only the authorities in this PEM file, or the system's. Raises OSError for a file without any."""
    context = ssl.create_default_context(cafile=ca_file)
    return as_others_verify(context) if ca_file else context
