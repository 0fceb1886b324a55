"""Stream events to a client: frames, heartbeat, the client that leaves, the server that stops.

The wire format is that of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html):
``data: {"text": "Hel"}``, a blank line, and ``data: [DONE]`` at the end, whatever happened before it. So a body
that ends without it was cut by the network. It knows nothing of models; any route can return an `EventStream`.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

import anyio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from errors import handler_of, response_to

BEAT = 15.0  # seconds of silence before a comment is sent: nginx and AWS cut at 60 s, Cloudflare at about 100 s
HOLD = 10.0  # seconds to wait for the first event before the status is sent: a quick failure keeps its own status

Emit = Callable[[object], Awaitable[None]]
Write = Callable[[Emit], Awaitable[None]]


class EventStream(Response):
    """A response whose events are written by a coroutine: ``write(emit)``, with ``await emit({"text": "Hel"})``.

    ``write`` runs in the request's own task and is cancelled when the client leaves, also before its first event,
    so its ``finally`` runs to the end. What it raises before the first event (or the first ten seconds) is
    answered with its own status; later, the same JSON goes out as the last event before ``[DONE]``.
    """

    media_type = "text/event-stream"

    def __init__(self, write: Write, *, headers: Mapping[str, str] | None = None) -> None:
        self.write = write
        self.status_code = 200
        self.background = None
        self.ended: Literal["open", "done", "left", "error"] = "open"
        self.init_headers(
            {
                "Content-Type": self.media_type,  # Starlette would add a charset, which the format does not have
                "Cache-Control": "no-cache",
                "Connection": "keep-alive",
                "X-Accel-Buffering": "no",  # nginx passes events on as they come
                **(headers or {}),
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self._started = False
        self._last = anyio.current_time()
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, receive, tasks.cancel_scope)
            tasks.start_soon(self._beat)
            try:
                await self.write(self.emit)
                self.ended = "done"
            except Exception as exc:
                failure = exc
                self.ended = "error"
            tasks.cancel_scope.cancel()
        if self.ended == "left":
            return
        if failure is not None:
            response = await response_to(failure, scope, receive, send) if self._started else None
            if response is None:
                raise failure
            await self.emit(json.loads(bytes(response.body)))
        await self._start()
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
        if failure is not None and not handler_of(failure, scope):
            raise failure

    async def emit(self, event: object) -> None:
        """Send one event: any JSON value, ASCII-escaped so that no character can end its line."""
        if not self._started:
            await self._start()
        self._last = anyio.current_time()
        await self._body(b"data: " + json.dumps(event).encode() + b"\n\n")

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _body(self, body: bytes) -> None:
        message: Message = {"type": "http.response.body", "body": body, "more_body": True}
        await self._send(message)

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.ended = "left"
        scope.cancel()

    async def _beat(self) -> None:
        await anyio.sleep(HOLD)
        await self._start()
        while True:
            silent = anyio.current_time() - self._last
            if silent >= BEAT:
                self._last += silent
                await self._body(b": ping\n\n")
            else:
                await anyio.sleep(BEAT - silent)
