"""One line in the log for each request: an id, what was asked, which route, how it went. Never what was said.

``POST /api/chat 200 1280ms id=4f… first_ms=210 pieces=57 ended=done conversation=…``: the method, the route's path
as its folder is written, the status, the milliseconds until the last byte, and what the route and its stream noted
in ``scope["log"]``; the client's address where it was turned away. The id is the client's ``X-Request-Id`` or a new
one. It goes back in the answer, and `logs` writes it beside every line of the request.
"""

import itertools
import logging
import re
import time
from collections.abc import Iterable
from secrets import token_hex
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from logs import current_id
from metrics import request_ended

logger = logging.getLogger("request")

Headers = Iterable[tuple[bytes, bytes]]

_ID = re.compile(rb"[!-~]{1,128}")
_PROCESS = token_hex(4)  # with a count, unique among processes, and a tenth of what a random id costs
_count = itertools.count(1)

TURNED_AWAY = (401, 403, 429)


class RequestLog:
    """The layer, as ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        began_at = time.perf_counter()
        id = request_id(scope["headers"])
        current_id.set(id)  # stays when this is over: the server logs the traceback in the same task
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["headers"] = [*scope["headers"]]  # a copy: uvicorn adds a body's trailers to its own
        notes: dict[str, Any] = {}
        scope["log"] = notes
        status = 0

        def watched(message: Message) -> Any:  # hands on the awaitable: no second coroutine for each chunk of a stream
            nonlocal status
            if not status:  # the first message is the head
                status = message["status"]
                message["headers"] = with_id(message.get("headers", ()), id.encode())
            return send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            status = status or 500  # the server's own
            raise
        finally:
            request_ended(scope["method"], getattr(scope.get("route"), "path", "-"), status)
            if logger.isEnabledFor(logging.INFO):
                log_request(scope, status, time.perf_counter() - began_at, id, notes)


def request_id(headers: Headers) -> str:
    """The client's own id, or a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return value.decode()
    return f"{_PROCESS}-{next(_count)}"


def with_id(headers: Headers, id: bytes) -> Headers:
    """The headers of an answer and its id, which takes the place of one that the handler set."""
    found = [*headers]
    for name, _ in found:
        if name == b"x-request-id":
            found = [header for header in found if header[0] != name]
    found.append((b"x-request-id", id))
    return found


def log_request(scope: Scope, status: int, took: float, id: str, notes: dict[str, Any]) -> None:
    route: Any = scope.get("route")
    path = getattr(route, "path", "-")  # the pattern, not the path: a path may hold what is private
    if status in TURNED_AWAY and scope.get("client"):
        notes["client"] = scope["client"][0]
    asked = {"method": scope["method"], "path": path, "status": status or "left", "ms": round(took * 1000)}
    words = "".join(f" {name}={value}" for name, value in notes.items())
    logger.info("%s %s %s %sms id=%s%s", *asked.values(), id, words, extra={"fields": asked | notes})
