"""One line in the log for each request: an id, what was asked, which route, how it went. Never what was said.

``POST /api/chat 200 1280ms id=4f… first_ms=210 pieces=57 ended=done conversation=…``: the method, the route's path
as its folder is written, the status, the milliseconds until the last byte, and what the route and its stream noted
in ``scope["log"]``. The id is the client's ``X-Request-Id`` or a new one, and goes back in the answer.
"""

import itertools
import logging
import re
import time
from secrets import token_hex
from typing import Any

from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from errors import answer_error

logger = logging.getLogger("request")

_ID = re.compile(rb"[!-~]{1,128}")
_PROCESS = token_hex(4).encode()  # with a count, unique among processes, and a tenth of what a random id costs
_count = itertools.count(1)


class LoggedApp(Starlette):
    """Starlette whose requests are logged. This is its outermost error layer, too.

    Both are done in the app's own coroutine: as middleware around it, each would be one more for every request.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        stack = self.middleware_stack
        if stack is None:
            stack = self.middleware_stack = self.build_middleware_stack()
        if scope["type"] != "http":
            return await stack(scope, receive, send)
        logs = logger.isEnabledFor(logging.INFO)
        began_at = time.perf_counter() if logs else 0.0
        request_id = b"%b-%x" % (_PROCESS, next(_count))
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _ID.fullmatch(value):
                request_id = value
        notes: dict[str, Any] = {}
        scope["log"] = notes
        status = 0

        def watched(message: Message) -> Any:  # hands on the awaitable: no second coroutine for each chunk of a stream
            nonlocal status
            if not status:  # the first message is the head
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            return send(message)

        try:
            await stack(scope, receive, watched)
        except Exception as exc:
            await answer_error(exc, scope, receive, watched, status != 0)
        finally:
            if logs:
                route: Any = scope.get("route")
                took = round((time.perf_counter() - began_at) * 1000)
                words = "".join(f" {name}={value}" for name, value in notes.items())
                path = getattr(route, "path", "-")  # the pattern, not the path: a path may hold what is private
                id = request_id.decode()
                logger.info("%s %s %s %sms id=%s%s", scope["method"], path, status or "left", took, id, words)
