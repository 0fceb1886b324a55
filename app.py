"""The front door: puts everything together, and turns errors into status codes.

`uvicorn app:app` serves it; `python -m app` runs a command. Importing the module alone builds nothing.
"""

import logging
import math
import os
import sys
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import Any

if __name__ == "__main__" and not find_spec("starlette"):
    sys.exit(
        f"{sys.executable} has none of the project's packages. "
        "Run make dev once, which installs them, and then write: .venv/bin/python -m app"
    )

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from answers import Busy, Ended
from auth import Unauthorized
from cli.commands import main
from cli.devserver import DEV_TOKEN
from cli.explain import explain
from config import Config, near_misses
from errors import BadRequest, Errors
from jsonresponse import JSONResponse
from layers.bodylimit import BodyLimit
from layers.cors import CORS
from layers.prefix import Prefix
from layers.requestlog import RequestLog
from llm import LLM, LLMError, RateLimited, Silent
from logs import set_up_logging
from modules import RouteError, executing, imports_app
from quota import OverQuota
from router import Router
from router.public import public_files
from startup import (
    load,
    message_of,
    read_settings,
    report,
    what_is_closed,
    what_is_not_read,
    what_is_open,
    what_is_weak,
    with_descriptors,
)
from state import State, open_state
from store import NotFound, Reused, Running

logger = logging.getLogger("app")


def create_app(config: Config, *, llm: LLM | None = None) -> Starlette:
    """Build the app; ``llm`` to talk to the models in another way. Raises what `load` raises."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[State]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = config.handler_threads
        async with open_state(config, loaded.jobs, loaded.channels, llm, loaded.register) as state:
            yield state

    loaded = load(config)
    app = App(exception_handlers=HANDLERS, middleware=loaded.middleware)
    app.max_body_size = config.max_body_bytes
    app.cors_origins = config.cors_origins
    files = public_files(config.routes_dir.parent / "public")
    app.router = Router(loaded.routes, files=files, lifespan=lifespan, say=message_of)
    app.state.config = config
    return app


class App(Starlette):
    """Starlette, with its layers in one list."""

    cors_origins: Collection[str] | None = None

    def layers(self) -> list[Middleware]:
        """What stands around the router: what comes in passes it from the first to the last."""
        return [
            Middleware(Prefix),  # one way of writing where the app is mounted
            Middleware(RequestLog),  # an id for each request, and a line in the log
            *([Middleware(CORS, self.cors_origins)] if self.cors_origins else ()),  # what pages elsewhere may read
            *([Middleware(Errors)] if self.user_middleware else ()),  # what these raise becomes an answer
            *self.user_middleware,  # app.add_middleware, then the project's middleware.py
            Middleware(BodyLimit, self.max_body_size or 2**63),
            Middleware(Errors),  # what a route raises becomes an answer, which the layers above see
        ]

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for cls, args, kwargs in reversed(self.layers()):
            app = cls(app, *args, **kwargs)
        return app


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


async def ended(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, Ended)
    if exc.reason == "server":
        return JSONResponse({"error": str(exc)}, 503, {"Retry-After": "5"})
    return JSONResponse({"error": str(exc)}, 502 if exc.state == "error" else 409)


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
    path = getattr(route, "path", None) or repr(request.scope["path"])  # as sent it may hold the end of a line
    exc.add_note(f"while answering {request.method} {path} ({getattr(route, 'file', 'no route')})")
    if isinstance(exc, KeyError) and exc.args[0] in State.__annotations__ and exc.args[0] not in request.scope["state"]:
        exc.add_note(WITHOUT_LIFESPAN)
    return JSONResponse({"error": "Internal server error"}, 500)


async def explained(request: Request, exc: Exception) -> Response:
    """Answer as make dev does: with what was raised, and where."""
    await server_error(request, exc)  # for what it notes in the log
    return explain(request, exc)


WITHOUT_LIFESPAN = (
    "The app's lifespan did not run, so there is no request.state. Who mounts the app in another one runs it there: "
    "Starlette(routes=[Mount('/base', app)], lifespan=lambda _: app.router.lifespan_context(app)); "
    "in a test, write: with TestClient(app) as client."
)

HANDLERS: Mapping[Any, Any] = {
    HTTPException: http_error,
    Unauthorized: unauthorized,
    Busy: busy,
    OverQuota: over_quota,
    Ended: ended,
    NotFound: not_found,
    Running: running,
    Reused: reused,
    LLMError: model_error,
    Exception: server_error,  # raised again after it is answered: the server logs the traceback
}


# What servers import: `app` for production, `dev` for make dev.


class Served:
    """The app that servers and others import: it is built when anything of it is asked for, and not before.

    So importing this module has no effect, and `from app import app` works everywhere.
    """

    is_built_from_files = True  # none of which may import it: modules.py

    def __getattr__(self, name: str) -> Any:
        return getattr(production(), name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await production()(scope, receive, send)
        try:
            started = production()
        except SystemExit:  # what is wrong was said
            await receive()
            return await send({"type": "lifespan.startup.failed", "message": ""})
        await started(scope, receive, send)


@cache
def production() -> Starlette:
    """Build the app with the settings of the environment, or say what is wrong and exit with 3."""
    if (file := executing()) is not None:
        raise RouteError(imports_app(file))
    try:
        config = start()
        for words in (*what_is_closed(config), *what_is_weak(config)):
            logger.warning("%s", words)
        for words in what_is_open(config):
            logger.info("%s", words)
        return create_app(config)
    except Exception as exc:
        report(exc)
        sys.exit(3)  # what uvicorn's process manager takes for "do not try again"


app: Any = Served()


def dev() -> ASGIApp:
    """Build the app for make dev: when it cannot be built, every answer says why until it can."""
    try:
        config = start()  # a reload does not wait for open streams; jobs run without a crontab
        token = config.webchat_token or os.environ.get(DEV_TOKEN)
        app = create_app(
            replace(config, shutdown_grace=0, cron_interval=config.cron_interval or 60, webchat_token=token)
        )
        app.add_exception_handler(Exception, explained)
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
    set_up_logging(config.log_level, config.log_format)
    config, warnings = with_descriptors(config)
    for words in warnings:
        logger.warning("%s", words)
    for near_miss in near_misses():
        logger.warning("%s in %s is not a setting. Did you mean %s?", *near_miss)
    for name, meant in what_is_not_read(config.routes_dir):
        logger.warning("%s is not read. Did you mean %s?", name, meant)
    access = logging.getLogger("uvicorn.access")  # our own line says more, and never a query
    access.handlers, access.propagate = [], False
    return config


if __name__ == "__main__":
    sys.exit(main())
