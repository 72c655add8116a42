"""Log lines: one JSON object each on standard output, at the level that the person asked for.

Tokens, codes and bodies are never passed to a logger. What an exception quotes all the same is taken out here.
"""

import json
import logging
import sys
import threading
from datetime import UTC, datetime

from oauth_pool_operator.errors import ConfigError
from oauth_pool_operator.redaction import message_of, redacted_exception

log = logging.getLogger(__name__)

LEVELS = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}


class JsonFormatter(logging.Formatter):
    """One JSON object a line, as the proxy writes them: timestamp, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        instant = datetime.fromtimestamp(record.created, UTC)
        entry = {
            "timestamp": instant.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": "WARN" if record.levelno == logging.WARNING else record.levelname,
            "logger": record.name,
            "message": message_of(record),
        }
        if record.exc_info:
            entry["exception"] = redacted_exception(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


class PlainFormatter(logging.Formatter):
    """For a person beside the running operator."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted_exception(super().format(record))


def set_up_quiet_logging() -> None:
    """Warnings only, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter(logging.BASIC_FORMAT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def set_up_logging(level: str) -> None:
    """From now on; raises `ConfigError` for a level that is none."""
    if level not in LEVELS:
        raise ConfigError(f"LOG_LEVEL: {level!r} is not one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.raiseExceptions = False  # else a line that cannot be written goes to standard error, with its arguments
    threading.excepthook = _on_uncaught
    # Only our own lines get more talkative: at debug level, Kopf and the HTTP clients print bodies and URLs.
    logging.getLogger("oauth_pool_operator").setLevel(LEVELS[level])
    logging.getLogger("kopf").setLevel(max(logging.WARNING, LEVELS[level]))


def _on_uncaught(args: threading.ExceptHookArgs) -> None:
    """Python itself would print it to standard error, past everything here."""
    if args.exc_value is not None:
        log.critical("a thread ended by an exception", exc_info=args.exc_value)
