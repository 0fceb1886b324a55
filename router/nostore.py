"""Answers that need a credential are not stored: ``Cache-Control: no-store`` (RFC 9111 5.2.2.5).

A proxy that caches by a path's ending would give one visitor's ``/api/conversations/mine.css`` to the next one. What
`auth.requires` guards is private, also where it is refused; a route that sets a Cache-Control of its own keeps it.
"""

from collections.abc import Awaitable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import Errors


class NoStore:
    """One handler with this around it, as ASGI middleware; errors are answered inside, so a 401 is marked too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = Errors(app)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # no coroutine of its own
        def marked(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message.setdefault("headers", [])).setdefault("Cache-Control", "no-store")
            return send(message)

        return self.app(scope, receive, marked)
