"""How a line of the log looks: text or JSON, one line an event, with the id of the request or job that wrote it.

Whatever logs while a request is served or a job runs, a library too, has its id: it stands in a `ContextVar`, which
tasks and threads inherit, and a filter puts it on each record. In text, a line of a traceback is indented and control
characters are escaped, so that nothing a client sent can pass for a line of its own.
"""

import json
import logging
import re
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

current_id: ContextVar[str | None] = ContextVar("current_id", default=None)  # of a request, or of a job: set it first

CHATTY = ("httpx", "httpx2", "openai", "httpcore2", "watchfiles")  # they log each request, with its URL


def set_up_logging(level: str, layout: str = "text") -> None:
    """Log everything to stderr in one form, what the server itself says too."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if layout == "json" else TextLines())
    handler.addFilter(add_id)
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if not isinstance(other.formatter, TextLines | JsonLines)]
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        server = logging.getLogger(name)
        server.handlers, server.propagate = [], True


def add_id(record: logging.LogRecord) -> bool:
    """A filter that lets everything pass, with the id of the request or job around it as ``record.id``."""
    record.id = current_id.get()
    return True


class TextLines(logging.Formatter):
    """``2026-11-26 17:00:00,000 INFO    routes.api.chat.route: what was logged id=4f…``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        id = getattr(record, "id", None)
        text = super().formatMessage(record).rstrip("\n")
        if id is None or hasattr(record, "fields"):  # the request's own line says it in its place
            return text
        first, newline, more = text.partition("\n")
        return f"{first} id={id}{newline}{more}"

    def format(self, record: logging.LogRecord) -> str:
        first, *more = super().format(record).split("\n")
        return "\n".join([visible(first), *(f"    {visible(line)}" for line in more)])


# What moves a terminal's cursor, ends a line for some readers, or turns the text around that follows it.
_MOVES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def visible(line: str) -> str:
    """A line whose control characters are escaped."""
    return _MOVES.sub(lambda found: ascii(found[0])[1:-1], line)


class JsonLines(logging.Formatter):
    """One JSON object a line, for what collects logs."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "id": getattr(record, "id", None),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            text = orjson.dumps(line, str, orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # half a surrogate, or an integer of more than 64 bits
            text = json.dumps(line, default=str)
        return _MOVES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # in JSON they stand within strings alone
