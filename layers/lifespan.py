"""A start that fails because of the settings says so in their words; Starlette's own gives a traceback."""

import sys

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from startup import message_of


class PlainFailure:
    """The layer, as ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send):  # no coroutine of its own
        async def telling(message: Message) -> None:
            exc = sys.exception()
            if message["type"] == "lifespan.startup.failed" and exc is not None:
                message["message"] = message_of(exc).rstrip()
            await send(message)

        return self.app(scope, receive, telling if scope["type"] == "lifespan" else send)
