"""`python -m simulator`: the provider as a process of its own. Prints its URL on standard output when it is ready."""

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import control
from .server import SimulatorServer
from .settings import FederationRule, Settings
from .switches import describe

# what there is to know about a running simulator stands where it is made, and is shown here
_EPILOG = f"""\
{control.__doc__}
Switches (name, value at first, meaning). A POSITION in a stream is a number of events or the type of an event,
message_start to message_delta: after the first of it. Set with --switch, PATCH switches and PATCH accounts/SUBJECT;
what is set for one account wins.

{describe()}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until SIGTERM or Ctrl-C, and then ends with 0."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    # the HTTP client that fetches the issuer's keys has nothing to say that our own lines do not
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    # blocked before any thread exists, so that the main thread is the one that takes them
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        server = SimulatorServer(
            _settings(options),
            host=options.host,
            port=options.port,
            certificate_file=options.certificate_file,
            key_file=options.key_file,
        )
        server.simulator.switches.set(None, **dict(options.switch))
    except ValueError as error:
        parser.error(str(error))
    try:
        server.start()
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {options.host}:{options.port}: {error}\n")
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    signal.sigwait(stops)
    server.stop()
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    given = {name: value for name, value in vars(options).items() if name in Settings.__dataclass_fields__}
    # repeatable flags come as lists, and as None when they were not given: then the default stays
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }
    return Settings(**chosen)


def _parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="simulator",
        description="An LLM provider to test against: OAuth endpoints, the messages API, and switches that break them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--certificate-file", type=Path, metavar="FILE", help="serve TLS with this PEM chain")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="the certificate's PEM key")
    client = parser.add_argument_group("the registered OAuth client")
    client.add_argument("--client-id", metavar="ID", help=f"(default: {defaults.client_id})")
    client.add_argument("--client-secret", metavar="SECRET", help="what a confidential client has to know")
    client.add_argument(
        "--redirect-uri",
        dest="redirect_uris",
        action="append",
        metavar="URI",
        help=f"may be repeated (default: {', '.join(defaults.redirect_uris)})",
    )
    client.add_argument(
        "--scope",
        dest="scopes",
        action="append",
        metavar="SCOPE",
        help=f"may be repeated (default: {', '.join(defaults.scopes)})",
    )
    client.add_argument(
        "--token-body",
        dest="token_bodies",
        action="append",
        choices=("json", "form"),
        help="bodies the token endpoint reads; may be repeated (default: json)",
    )
    client.add_argument(
        "--code-parameter-required",
        action="store_true",
        default=None,
        help="refuse authorization URLs without code=true",
    )
    client.add_argument(
        "--account",
        dest="accounts",
        action="append",
        metavar="SUBJECT",
        help="who is offered on the login page; may be repeated",
    )
    workload = parser.add_argument_group("workload identity")
    workload.add_argument("--issuer", metavar="URL", help="the API server's ServiceAccount issuer")
    workload.add_argument("--issuer-ca-file", type=Path, metavar="FILE", help="PEM certificates to trust for it")
    workload.add_argument("--jwks-file", type=Path, metavar="FILE", help="its keys, instead of fetching them")
    workload.add_argument("--audience", help=f"what `aud` must name (default: {defaults.audience})")
    workload.add_argument(
        "--federation-rule",
        dest="federation_rules",
        type=_rule,
        action="append",
        metavar="RULE",
        help="id=fdrl_…,organization=UUID,subject=GLOB[,lifetime=SECONDS][,service-account=svac_…]; may be repeated",
    )
    parser.add_argument(
        "--switch",
        type=_switch,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set one from the start, the value as JSON; may be repeated. All are listed below",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="info logs one line a request, without secrets (default: %(default)s)",
    )
    return parser


def _rule(text: str) -> FederationRule:
    try:
        return FederationRule.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _switch(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        # a word needs no quotation marks
        return name, value


if __name__ == "__main__":
    sys.exit(main())
