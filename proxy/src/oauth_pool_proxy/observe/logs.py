"""JSON logs: one object per line on standard output, with `timestamp`, `level`, `logger`, `message` and the record's fields.

Modules log with the standard library and pass fields as `extra={"fields": {...}}`. Tokens, codes and bodies are never passed to
a logger, at any level. Secrets that an exception quotes anyway are removed here, as far as they can be recognized.
"""

import logging
import sys
import threading
from types import TracebackType

import msgspec

from oauth_pool_proxy.observe.instants import rfc3339
from oauth_pool_proxy.observe.redaction import message_of, redacted, redacted_exception

log = logging.getLogger(__name__)

LEVELS = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": 5,
}
_NAMES = {number: name.upper() for name, number in LEVELS.items()}


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "timestamp": rfc3339(record.created, "milliseconds"),
            "level": _NAMES.get(record.levelno, record.levelname),
            "logger": record.name,
            "message": message_of(record),
            **{name: _clean(name, value) for name, value in getattr(record, "fields", {}).items()},
        }
        if record.exc_info and record.exc_info[0]:
            entry["error"] = redacted_exception(f"{record.exc_info[0].__name__}: {record.exc_info[1]}")
            entry["traceback"] = redacted_exception(self.formatException(record.exc_info))
        return msgspec.json.encode(entry, enc_hook=str).decode()


def _clean(name: str, value: object) -> object:
    if isinstance(value, BaseException) or (name == "error" and isinstance(value, str)):
        return redacted_exception(str(value))
    return redacted(value) if isinstance(value, str) else value


def set_up_logging(level: str) -> None:
    logging.addLevelName(LEVELS["trace"], "TRACE")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    logging.raiseExceptions = False  # else a line that cannot be written goes to standard error, with its arguments
    sys.excepthook = _on_uncaught
    threading.excepthook = lambda args: _on_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    # At info, the server only repeats what the proxy's own lines say better. Its debug output would contain request headers, so
    # it stays off at every level.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.ERROR if "uvicorn" in name else logging.WARNING))


def _on_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    """Python itself would print the exception to standard error, bypassing all of this."""
    if error is not None and not issubclass(kind, KeyboardInterrupt):
        log.critical("ended by an exception", exc_info=(kind, error, traceback))
