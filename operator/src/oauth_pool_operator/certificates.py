"""What is asked of a certificate beside a good signature."""

import ssl


def as_others_verify(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context, which verifies as kubectl, curl and every Go program do.

    Python 3.13 and newer also demand the extensions that RFC 5280 asks of an authority. Many a cluster's or company's
    own CA has not got them, and whoever runs the cluster cannot always change that.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def context_for(ca_file: str | None) -> ssl.SSLContext:
    """Trusts the authorities in this PEM file alone, or those of the system. Raises OSError for a file that is none."""
    context = ssl.create_default_context(cafile=ca_file)
    return as_others_verify(context) if ca_file else context
