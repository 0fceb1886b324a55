"""The limit on a request's body, one for every framing: a declared length, chunks, HTTP/2.

Starlette's own middleware answers by itself, in plain text, before a route's middleware is there to add its headers,
and raises in the middle of an answer that has begun.
"""

import math
from collections.abc import Awaitable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Count the body as it is read, in ``scope["body"]``; a route asks it for the declared length (`Body.check`)."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # no coroutine of its own
        if scope["type"] == "http" and (length := declared_length(scope)):
            body = Body(self.limit, length, receive, send)
            scope["body"] = body
            return self.app(scope, body.receive, body.send)
        return self.app(scope, receive, send)


def declared_length(scope: Scope) -> float:
    """How long the body is to be, as its headers say: 0 where there is none, infinite where nothing is said.

    NaN where it is no number that a body can have.
    """
    length = 0.0 if scope.get("http_version") in ("1.0", "1.1") else math.inf
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else math.nan
        if name == b"transfer-encoding":
            length = math.inf
    return length


class Body:
    """One request's body, while it is read."""

    def __init__(self, limit: int, length: float, receive: Receive, send: Send) -> None:
        self.limit = limit
        self._length = length
        self._receive = receive
        self._send = send
        self._read = 0
        self._wanted = False  # whether anything of it was read before the answer began
        self._started = False

    def check(self) -> None:
        """Refuse a declared length, before anything is read. Raises `HTTPException`."""
        if math.isnan(self._length):
            raise HTTPException(400, "Content-Length is no number")
        if self.limit < self._length < math.inf:
            raise HTTPException(413, "Content Too Large")

    async def receive(self) -> Message:
        if not self._started:
            self.check()
        message = await self._receive()
        self._read += len(message.get("body", b""))
        self._wanted = self._wanted or not self._started
        if self._read <= self.limit:
            return message
        if not self._started:
            raise HTTPException(413, "Content Too Large")
        # Too late for a status. Who has not read till now only waits for the client to leave; who reads must not take
        # what came so far for the whole.
        return {"type": "http.disconnect"} if self._wanted else await self.departure()

    async def departure(self) -> Message:
        """Return when the client has left; what it sends till then is dropped."""
        message = await self._receive()
        while message["type"] != "http.disconnect":
            message = await self._receive()
        return message

    def send(self, message: Message) -> Awaitable[None]:
        self._started = True
        return self._send(message)
