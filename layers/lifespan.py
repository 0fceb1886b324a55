"""A start that fails because of the settings says so in their words; Starlette's own gives a traceback."""

import sys
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from startup import message_of


class PlainFailure:
    """The layer, as ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # no coroutine of its own
        if scope["type"] != "lifespan":
            return self.app(scope, receive, send)

        async def telling(message: Message) -> None:
            exc = sys.exception()
            if message["type"] == "lifespan.startup.failed" and exc is not None:
                message["message"] = message_of(exc).rstrip()
            await send(message)

        return self.app(scope, receive, telling)
