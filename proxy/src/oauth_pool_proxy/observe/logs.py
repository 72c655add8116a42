"""JSON logs: one object a line on standard output, with `timestamp`, `level`, `logger`, `message` and the record's fields.

Modules log with the standard library and pass fields as `extra={"fields": {...}}`. Tokens, codes and bodies are never
passed to a logger, at any level: nothing here could take them out again.
"""

import logging
import sys

import msgspec

from oauth_pool_proxy.observe.instants import rfc3339

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
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            entry["error"] = f"{record.exc_info[0].__name__}: {record.exc_info[1]}"
            entry["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry, enc_hook=str).decode()


def set_up_logging(level: str) -> None:
    logging.addLevelName(LEVELS["trace"], "TRACE")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    # The server and the HTTP client of the control plane repeat at info what our own lines say better. Their debug
    # output would contain request headers, so it stays off at every level.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.ERROR if "uvicorn" in name else logging.WARNING))
