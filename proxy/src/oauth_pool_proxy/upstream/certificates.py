"""Which certificates are trusted."""

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
