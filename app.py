"""The front door: puts everything together, and turns errors into status codes.

`uvicorn app:app` serves it; `python -m app` runs a command. Importing the module alone builds nothing.
"""

import logging
import math
import sys
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

if __name__ == "__main__" and not find_spec("starlette"):
    sys.exit(
        f"{sys.executable} has none of the project's packages. "
        "Run make dev once, which installs them, and then write: .venv/bin/python -m app"
    )

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from auth import Unauthorized
from chat import Busy
from cli.commands import main
from cli.explain import explain
from config import Config, near_misses
from errors import BadRequest, Errors
from jsonresponse import JSONResponse
from llm import LLM, LLMError, RateLimited, Silent
from quota import OverQuota
from requestlog import LoggedApp
from router import Router
from startup import load, message_of, read_settings, report, set_up_logging, what_is_closed, what_is_open, what_is_weak
from state import State, open_state
from store import NotFound, Reused, Running

logger = logging.getLogger("app")


def create_app(config: Config, *, llm: LLM | None = None) -> Starlette:
    """Build the app; ``llm`` to talk to the models in another way. Raises what `load` raises."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[State]:
        async with open_state(config, loaded.jobs, loaded.channels, llm, loaded.register) as state:
            yield state

    loaded = load(config)
    app = App(exception_handlers=HANDLERS)
    app.max_body_bytes = config.max_body_bytes
    app.router = FrontRouter(loaded.routes, public=config.routes_dir.parent / "public", lifespan=lifespan)
    app.state.config = config
    return app


class App(LoggedApp):
    """Starlette with one error layer instead of two, and a limit on bodies that costs nothing without a body.

    With `debug`, or middleware of the app's own, Starlette's two layers are used as they are.
    """

    max_body_bytes = 1_048_576

    def build_middleware_stack(self) -> ASGIApp:
        end = limited(self.router, self.max_body_bytes)
        if not self.debug and not self.user_middleware:
            return end
        router, self.router = self.router, end  # pyright: ignore[reportAttributeAccessIssue] - only called here
        try:
            return super().build_middleware_stack()
        finally:
            self.router = router


class FrontRouter(Router):
    """A start that fails because of the settings says so in their words; Starlette's own gives a traceback."""

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def telling(message: Message) -> None:
            exc = sys.exception()
            if message["type"] == "lifespan.startup.failed" and exc is not None:
                message["message"] = message_of(exc).rstrip()
            await send(message)

        await super().lifespan(scope, receive, telling)


def limited(app: ASGIApp, limit: int) -> ASGIApp:
    """Answer 413 to a body that is too large: by its declared length at once, or else when it grows past the limit.

    Starlette's own middleware would wrap every request, and answers in plain text.
    """
    counting = RequestBodyLimitMiddleware(Errors(app), limit)  # Errors inside: else it answers itself, in plain text

    def limit_body(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # no coroutine of its own
        chosen = app
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"content-length" and int(value) > limit:
                    raise HTTPException(413, "Content Too Large")
                if name == b"transfer-encoding":
                    chosen = counting
        return chosen(scope, receive, send)

    return limit_body


# Every status that an error becomes, in one place.


async def http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    body: dict[str, Any] = {"error": exc.detail}
    if isinstance(exc, BadRequest):
        body["details"] = exc.details
    if exc.status_code in (204, 304):
        return Response(status_code=exc.status_code, headers=exc.headers)
    return JSONResponse(body, exc.status_code, exc.headers)


async def unauthorized(request: Request, exc: Exception) -> Response:
    return JSONResponse({"error": "Unauthorized"}, 401, {"WWW-Authenticate": "Bearer"})


async def busy(request: Request, exc: Exception) -> Response:
    return JSONResponse({"error": "Too many answers are being streamed. Try again later."}, 503, {"Retry-After": "5"})


async def over_quota(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, OverQuota)
    words = "You have asked as many questions as are possible for now. Try again later."
    return JSONResponse({"error": words}, 429, {"Retry-After": str(exc.retry_after)})


async def not_found(request: Request, exc: Exception) -> Response:
    return JSONResponse({"error": "Not Found"}, 404)


async def running(request: Request, exc: Exception) -> Response:
    return JSONResponse({"error": "The answer to that messageId is still being written."}, 409, {"Retry-After": "5"})


async def reused(request: Request, exc: Exception) -> Response:
    return await http_error(request, BadRequest(("messageId", "belongs to another message of the conversation")))


async def model_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, LLMError)
    if isinstance(exc, RateLimited):
        return JSONResponse({"error": str(exc)}, 503, {"Retry-After": str(math.ceil(exc.retry_after or 10))})
    return JSONResponse({"error": str(exc)}, 504 if isinstance(exc, Silent) else 502)


async def server_error(request: Request, exc: Exception) -> Response:
    route: Any = request.scope.get("route")
    exc.add_note(f"while answering {request.method} {request.scope['path']} ({getattr(route, 'file', 'no route')})")
    return JSONResponse({"error": "Internal server error"}, 500)


HANDLERS: Mapping[Any, Any] = {
    HTTPException: http_error,
    Unauthorized: unauthorized,
    Busy: busy,
    OverQuota: over_quota,
    NotFound: not_found,
    Running: running,
    Reused: reused,
    LLMError: model_error,
    Exception: server_error,  # raised again after it is answered: the server logs the traceback
}


# What servers import: `app` for production, `dev` for make dev.


def __getattr__(name: str) -> Any:
    """Build the app when a server asks for it by name, so that importing this module has no effect."""
    if name != "app":
        raise AttributeError(name)
    try:
        config = start()
        for words in (*what_is_closed(config), *what_is_weak(config)):
            logger.warning("%s", words)
        for words in what_is_open(config):
            logger.info("%s", words)
        globals()["app"] = app = create_app(config)
    except Exception as exc:
        report(exc)
        sys.exit(3)  # what uvicorn's process manager takes for "do not try again"
    return app


def dev() -> ASGIApp:
    """Build the app for make dev: when it cannot be built, every answer says why until it can."""
    try:
        config = start()  # a reload does not wait for open streams; jobs run without a crontab
        app = create_app(replace(config, shutdown_grace=0, cron_interval=config.cron_interval or 60))
        app.add_exception_handler(Exception, explain)
        return app
    except Exception as exc:
        report(exc)
        text = message_of(exc)

        async def broken(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await PlainTextResponse(text, 500)(scope, receive, send)

        return broken


def start() -> Config:
    """Read the settings and set up logging, once in each process that serves."""
    config = read_settings()
    set_up_logging(config.log_level)
    for near_miss in near_misses():
        logger.warning("%s in %s is not a setting. Did you mean %s?", *near_miss)
    access = logging.getLogger("uvicorn.access")  # our own line says more, and never a query
    access.handlers, access.propagate = [], False
    return config


if __name__ == "__main__":
    sys.exit(main())
