"""Stream events to a client: frames, heartbeat, the client that leaves, the server that stops.

The wire format is that of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html):
``data: {"text": "Hel"}``, a blank line, and ``data: [DONE]`` at the end, whatever happened before it. So a body
that ends without it was cut by the network. It knows nothing of models; any route can return an `EventStream`.
"""

import asyncio
import json
import signal
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self

import anyio
import anyio.lowlevel
from anyio.lowlevel import RunVar
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from errors import ended_by_handler, handler_of, is_told_to_end, response_to
from metrics import first_piece

if TYPE_CHECKING:  # a default is what `-> EventStream` without more means: of any events
    from typing_extensions import TypeVar

    Event = TypeVar("Event", default=Any)
else:
    from typing import TypeVar

    Event = TypeVar("Event")

LAST_WORDS = 2.0  # seconds for the last frames of a stream that is stopped: its client may not be reading

# As json.dumps does: ASCII, so that no character ends a line; but no frame holds a NaN, which is no JSON.
encode = json.JSONEncoder(allow_nan=False).encode

STOPPED = "The server is stopping. Ask again in a moment."

Emit = Callable[..., Awaitable[None]]  # of one event or more, each any JSON value
Write = Callable[[Emit], Awaitable[None]]


class Framed(str):
    """An event as it is sent: what `framed` returns."""

    __slots__ = ()


def framed(data: str, id: int | None = None) -> Framed:
    """Return the frame of an event whose data is this JSON, on one line.

    The ``id`` is what a client sends back as Last-Event-ID to go on behind this event.
    """
    return Framed(f"data: {data}\n\n" if id is None else f"id: {id}\ndata: {data}\n\n")


def frames(events: Sequence[object]) -> bytes:
    return "".join([one if type(one) is Framed else framed(encode(one)) for one in events]).encode()


class EventStream(Response, Generic[Event]):
    """A response whose events are written by a coroutine: ``write(emit)``, with ``await emit({"text": "Hel"})``.

    ``write`` runs in the request's own task and is cancelled when the client leaves, also before its first event,
    or when the server stops; its ``finally`` runs to the end, and finds in ``ended`` what happened. What it raises
    before the first event (or the first ten seconds) is answered with its own status; later, ``on_error`` makes
    the last event from the same words. ``opening()`` are events that go out with the status. `EventStream[Frame]` says
    what an event is, for openapi.json.
    """

    media_type = "text/event-stream"
    beat = 15.0  # seconds of silence before a comment is sent: nginx and AWS cut at 60 s, Cloudflare at about 100 s
    hold = 10.0  # seconds to wait for the first event before the status goes out: a quick failure keeps its own
    patience = 60.0  # seconds for a client to take what is sent: one that does not read is dropped

    def __init__(
        self,
        write: Write,
        *,
        headers: Mapping[str, str] | None = None,
        on_error: Callable[[str], object] = lambda words: {"error": words},
        opening: Callable[[], Sequence[object]] = tuple,
    ) -> None:
        self.write = write
        self.on_error = on_error
        self.opening = opening
        self.status_code = 200
        self.background = None
        self.ended: Literal["open", "done", "left", "stopped", "error"] = "open"
        self.pieces = 0
        self.first_at = 0.0
        self._started = self._is_sending = False
        self._last = time.monotonic()
        self._scope = anyio.CancelScope()
        self.init_headers(
            {
                "Content-Type": self.media_type,  # Starlette would add a charset, which the format does not have
                "Cache-Control": "no-cache, no-store",  # what is said is one reader's
                "Connection": "keep-alive",
                "X-Accel-Buffering": "no",  # nginx passes events on as they come
                **(headers or {}),
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        begun_at = time.monotonic()
        _open.add(self)
        try:
            failure = await self._pump(receive)
            expected = failure is None or handler_of(failure, scope) is not None
            if self.ended == "left":
                if failure is not None and not expected:
                    raise failure  # what went wrong on the way out is the log's to tell
                scope["left"] = True  # so middleware that misses the head has no fault either
                return
            with anyio.move_on_after(LAST_WORDS):
                if failure is not None:
                    response = await response_to(failure, scope, receive, send) if self._started else None
                    if response is None:
                        raise failure
                    await self.emit(self.on_error(json.loads(bytes(response.body))["error"]), pieces=0)
                elif self.ended == "stopped":
                    await self.emit(self.on_error(STOPPED), pieces=0)
                await self._start()
                await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
            if failure is not None and not expected:
                raise failure  # the answer is complete; the server logs the traceback
        finally:
            _open.discard(self)
            log: dict[str, Any] = scope.get("log", {})
            log["ended"] = self.ended
            if self.first_at:
                log |= {"first_ms": round((self.first_at - begun_at) * 1000), "pieces": self.pieces}
                first_piece(self.first_at - begun_at)

    async def _pump(self, receive: Receive) -> Exception | None:
        """Run ``write`` beside the watcher and the heartbeat, which end with it; what it raised is returned."""
        failure: Exception | None = None
        with Pace.of_loop() as self._pace:
            async with asyncio.TaskGroup() as tasks:
                beside = tasks.create_task(self._watch(receive)), tasks.create_task(self._beat())
                with self._scope:
                    try:
                        await self.write(self.emit)
                        self._end("done")
                    except Exception as exc:
                        failure = exc
                        self._end("error")
                    except (asyncio.CancelledError, SystemExit) as exc:
                        if is_told_to_end(exc):
                            raise
                        failure = ended_by_handler(exc)
                        self._end("error")
                for task in beside:
                    task.cancel()
        return failure

    async def emit(self, *events: object, pieces: int | None = None) -> None:
        """Send events, a frame each, in one write: any JSON values, or what `framed` made where they have ids.

        ``pieces`` is how many of them carry a piece of the answer, which is what the log counts; without it, all do.
        Where the loop is behind (see `Pace`) this returns a moment later; send what has come meanwhile together.
        """
        if self.ended != "open":
            # A task that always finds its next piece waiting is never caught between two: it would relay to nobody.
            await anyio.lowlevel.checkpoint_if_cancelled()
        if not self._started:
            await self._start()
        self._last = time.monotonic()
        if pieces is None:
            pieces = len(events)
        if pieces and not self.pieces:
            self.first_at = self._last
        self.pieces += pieces
        if events:
            await self._say(frames(events))
        if pieces and self._pace.rest:
            await asyncio.sleep(self._pace.rest)  # 2.7 us, where anyio.sleep takes 3.9

    async def _say(self, body: bytes) -> None:
        self._is_sending = True
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._is_sending = False

    def stop(self) -> None:
        """End the stream because the server stops."""
        self._end("stopped")
        self._scope.cancel()

    def _end(self, how: Literal["done", "left", "stopped", "error"]) -> None:
        if self.ended == "open":  # the first end is the true one: cancelling may raise something else on its way
            self.ended = how

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if events := self.opening():
                await self._say(frames(events))

    async def _watch(self, receive: Receive) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await receive()
        self._leave()

    def _leave(self) -> None:
        self._end("left")
        self._scope.cancel()

    async def _beat(self) -> None:
        await anyio.sleep(self.hold)
        await self._start()
        while True:
            silent = time.monotonic() - self._last
            if self._is_sending:
                if silent >= self.patience:
                    return self._leave()
                await anyio.sleep(min(self.beat, self.patience - silent))
            elif silent >= self.beat:
                self._last += silent
                with anyio.move_on_after(self.patience) as scope:
                    await self._say(b": ping\n\n")
                if scope.cancelled_caught:
                    return self._leave()
            else:
                await anyio.sleep(self.beat - silent)


class Pace:
    """How long each stream of an event loop rests after an event, in seconds: 0, until the loop falls behind.

    A loop with more to relay than it gets done takes all streams in turn, and a question waits for many such turns
    until its first piece: seconds. What arrives while a stream rests is read and sent at once, at little more than
    the cost of one piece; rests of some hundredths of a second are enough to make the turns short again
    (bench/RESULTS.md). A timer that runs while streams are open sees how late it is called.
    """

    tick = 0.01  # seconds between two looks
    late = 0.005  # seconds: from here on the loop is behind
    longer = 0.01  # seconds that are added at a late look: little for a single stall
    shorter = 0.98  # what is left of the rest at a look in time: a single stall is over after a third of a second
    longest, shortest = 0.25, 0.005  # seconds; a shorter one gathers no pieces, and costs each its timer

    def __init__(self) -> None:
        self.rest = 0.0
        self._streams = 0
        self._loop = asyncio.get_running_loop()

    @staticmethod
    def of_loop() -> "Pace":
        """Return the running loop's own."""
        pace = _pace.get(None)
        if pace is None:
            _pace.set(pace := Pace())
        return pace

    def __enter__(self) -> Self:
        self._streams += 1
        if self._streams == 1:
            self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._streams -= 1
        if self._streams == 0:
            self._timer.cancel()
            self.rest = 0.0

    def _wait(self) -> None:
        self._due = self._loop.time() + self.tick
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        if self._loop.time() - self._due > self.late:
            self.rest = min(self.rest + self.longer, self.longest)
        else:
            self.rest = self.rest * self.shorter if self.rest > self.shortest else 0.0
        self._wait()


_pace: RunVar[Pace | None] = RunVar("pace")

_open: set[EventStream] = set()


@asynccontextmanager
async def draining(grace: float, stop: Callable[[], object] = lambda: None) -> AsyncGenerator[None]:
    """While the app lives, end its open streams by themselves when the process is told to stop.

    A server such as uvicorn tells a stream nothing on SIGTERM and cancels it without a word when its own time is
    up. So the signal is heard here too: ``grace`` seconds later `stop` is called, and the streams that are still open
    are stopped. Does nothing outside the main thread, which alone can hear signals, or where no server listens to them.
    """
    before: dict[int, Callable[[int, FrameType | None], Any]] = {}
    loop = asyncio.get_running_loop()

    def heard(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(loop.call_later, grace, stop_all, stop)
        before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_all(stop: Callable[[], object]) -> None:
    stop()
    for stream in list(_open):
        stream.stop()
