"""One layer that turns every exception below it into an answer.

Starlette wraps an app in two such layers, and each route in a third; together they cost more than finding the
route does (see bench/RESULTS.md). This one does the work of all three and keeps to what Starlette documents
(https://www.starlette.io/exceptions/): handlers by status or class, the handler for 500 or `Exception` answers
what nobody else does, and that exception is raised again so that the server logs its traceback.
"""

import asyncio
import inspect
from asyncio import CancelledError
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect, StateT
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send


class BadRequest(HTTPException):
    """400: what the client sent cannot be used. ``details`` says which field and why, one entry a problem."""

    def __init__(self, *details: tuple[str, str]) -> None:
        super().__init__(400, "Invalid request")
        self.details = [{"field": field, "message": message} for field, message in details]


class Request(StarletteRequest[StateT]):
    """Starlette's request, whose `json()` answers 400 instead of 500 when the client's body is not JSON."""

    async def json(self) -> Any:
        """Return the parsed body. Raises `BadRequest`, also for NaN, Infinity and half a surrogate (RFC 8259 6, 7).

        An integer of more than 64 bits becomes a float, as every number above 2**53 does in JavaScript.
        """
        if not hasattr(self, "_json"):
            self._json = parse(await self.body())
        return self._json


def parse(body: bytes) -> Any:
    """Read JSON in UTF-8. Raises `BadRequest`."""
    try:
        return orjson.loads(body.removeprefix(BOM_UTF8))  # which RFC 8259 8.1 lets a reader ignore
    except orjson.JSONDecodeError as exc:
        if "depth limit" in exc.msg:
            raise BadRequest(("body", "is nested too deeply")) from None
        raise BadRequest(("body", f"is not JSON: {exc.msg} at line {exc.lineno} column {exc.colno}")) from None


class Errors:
    """The layer, as ASGI middleware. It finds its handlers where Starlette keeps them: `app.exception_handlers`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        def watched(message: Message) -> Any:  # hands on the awaitable: no second coroutine for each chunk of a stream
            nonlocal started
            started = True
            return send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as exc:
            await answer_error(exc, scope, receive, watched, started)
        except (CancelledError, SystemExit) as exc:
            if is_told_to_end(exc):
                raise
            await answer_error(ended_by_handler(exc), scope, receive, watched, started)


def is_told_to_end(exc: BaseException) -> bool:
    """Whether this request is cancelled from outside; else what it waited for was, or it calls `sys.exit`."""
    task = asyncio.current_task()
    return isinstance(exc, CancelledError) and task is not None and task.cancelling() > 0


def ended_by_handler(exc: BaseException) -> RuntimeError:
    what = f"it called sys.exit({exc.code!r})" if isinstance(exc, SystemExit) else "what it waited for was cancelled"
    error = RuntimeError(f"No response is returned: {what}")
    error.__cause__ = exc
    return error


async def answer_error(exc: Exception, scope: Scope, receive: Receive, send: Send, started: bool) -> None:
    """Answer an exception, unless an answer was started; raise again what nobody expected."""
    if isinstance(exc, ClientDisconnect) or scope.get("left"):
        scope["left"] = True  # nobody is left to answer, nor is what middleware says of it a fault
        return
    if started:
        if handler_of(exc, scope):
            raise RuntimeError("Caught handled exception, but response already started.") from exc
        raise exc
    expected = handler_of(exc, scope) is not None
    try:
        response = await response_to(exc, scope, receive, send, expected)
    except Exception as failure:  # of the handler: that is a bug, which the handler for 500 answers
        if not expected:
            raise
        exc, expected = failure, False
        response = await response_to(exc, scope, receive, send, expected)
    if response:
        await response(scope, receive, send)
    if not expected:
        raise exc


async def response_to(
    exc: Exception, scope: Scope, receive: Receive, send: Send, expected: bool = True
) -> Response | None:
    """Return the app's answer to an exception; None where the app has no handler for it, nor for 500."""
    handlers = _handlers(scope)
    handler = (handler_of(exc, scope) if expected else None) or handlers.get(500) or handlers.get(Exception)
    request = Request[Any](scope, receive, send)
    if not expected and getattr(scope.get("app"), "debug", False):
        return ServerErrorMiddleware(_nothing, debug=True).debug_response(request, exc)
    if handler is None:
        return None
    call: Any = handler
    return await (call(request, exc) if is_async(handler) else run_in_threadpool(call, request, exc))


def handler_of(exc: Exception, scope: Scope) -> ExceptionHandler | None:
    """Return the handler of an expected exception: by status, else by class. The one for 500 is not among them."""
    handlers = _handlers(scope)
    if isinstance(exc, HTTPException) and exc.status_code != 500 and exc.status_code in handlers:
        return handlers[exc.status_code]
    for cls in type(exc).__mro__:
        if cls in handlers and cls is not Exception:
            return handlers[cls]
    return None


def _handlers(scope: Scope) -> Mapping[Any, ExceptionHandler]:
    return getattr(scope.get("app"), "exception_handlers", {})


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None: ...


def is_async(function: object) -> bool:
    """Whether calling it gives a coroutine: an `async def`, a partial of one, an object whose `__call__` is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - not whether it is callable
