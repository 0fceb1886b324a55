"""The front door: puts everything together, turns errors into status codes, and is the command line.

`uvicorn app:app` serves it; `python -m app` says what else there is. Importing the module alone builds nothing.
"""

import argparse
import asyncio
import json
import logging
import math
import os
import secrets
import shlex
import socket
import sys
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from auth import Unauthorized
from chat import Busy, iso
from config import HERE, Config, ConfigError, load_config, read_env
from db import database
from errors import BadRequest, Errors
from llm import LLM, LLMError, RateLimited, Silent
from loader import RouteError, load_routes
from requestlog import RequestLog
from router import Route, Router
from state import State, open_state
from store import NotFound, Reused, Running
from webhooks import load_channels
from worker import Worker, load_jobs

logger = logging.getLogger("app")


def create_app(config: Config, *, llm: LLM | None = None) -> Starlette:
    """Build the app; ``llm`` to talk to the models in another way. Raises what `load_routes` raises."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[State]:
        async with open_state(config, jobs, channels, llm) as state:
            yield state

    routes, jobs = load_routes(config.routes_dir), load_jobs(config.routes_dir.parent / "jobs")
    channels = load_channels(config.routes_dir.parent / "channels")
    app = App(exception_handlers=HANDLERS)
    app.max_body_bytes = config.max_body_bytes
    app.router = Router(routes, public=config.routes_dir.parent / "public", lifespan=lifespan)
    app.state.config = config
    return app


class App(Starlette):
    """Starlette with one error layer instead of two, and a limit on bodies that costs nothing without a body.

    With `debug`, or middleware of the app's own, Starlette's two layers are used as they are.
    """

    max_body_bytes = 1_048_576

    def build_middleware_stack(self) -> ASGIApp:
        limit = BodyLimit(self.router, self.max_body_bytes)
        if not self.debug and not self.user_middleware:
            return RequestLog(limit)
        router, self.router = self.router, limit  # pyright: ignore[reportAttributeAccessIssue]
        try:
            return RequestLog(super().build_middleware_stack())
        finally:
            self.router = router


class BodyLimit:
    """413 for a body that is too large: by its declared length at once, or else when it grows past the limit.

    Starlette's own middleware would wrap every request, and answers in plain text.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit
        self.counting = RequestBodyLimitMiddleware(Errors(app), limit)  # outside of it, the answer would be plain text

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # no coroutine of its own
        app = self.app
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"content-length" and int(value) > self.limit:
                    raise HTTPException(413, "Content Too Large")
                if name == b"transfer-encoding":
                    app = self.counting
        return app(scope, receive, send)


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


async def not_found(request: Request, exc: Exception) -> Response:
    return JSONResponse({"error": "Not Found"}, 404)


async def running(request: Request, exc: Exception) -> Response:
    return JSONResponse({"error": "The answer to that messageId is still being written."}, 409, {"Retry-After": "5"})


async def reused(request: Request, exc: Exception) -> Response:
    return await http_error(request, BadRequest(("messageId", "belongs to another message of the conversation")))


async def model_error(request: Request, exc: Exception) -> Response:
    logger.warning("model: %s (%s)", exc, describe(exc.__cause__))
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
    NotFound: not_found,
    Running: running,
    Reused: reused,
    LLMError: model_error,
    Exception: server_error,  # raised again after it is answered: the server logs the traceback
}


def describe(exc: BaseException | None) -> str:
    """Name an exception for the log, without a provider's text: it may repeat what was sent."""
    status = getattr(exc, "status_code", None)
    return type(exc).__name__ + (f" {status}" if status else "") if exc else "no more is known"


# What servers import: `app` for production, `dev` for make dev.


def __getattr__(name: str) -> Any:
    """Build the app when a server asks for it by name, so that importing this module has no effect."""
    if name != "app":
        raise AttributeError(name)
    try:
        config = start()
        warn_of_closed_doors(config)
        globals()["app"] = app = create_app(config)
    except Exception as exc:
        report(exc)
        sys.exit(3)  # what uvicorn's process manager takes for "do not try again"
    return app


def dev() -> ASGIApp:
    """Build the app for make dev: when it cannot be built, every answer says why until it can."""
    try:
        config = start()  # a reload does not wait for open streams; jobs run without a crontab
        return create_app(replace(config, shutdown_grace=0, cron_interval=config.cron_interval or 60))
    except Exception as exc:
        report(exc)
        text = message_of(exc)

        async def broken(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await PlainTextResponse(text, 500)(scope, receive, send)

        return broken


def start() -> Config:
    """Read the settings and set up logging, once in each process that serves."""
    config = load_config(os.environ)
    for name in (".env.local", ".env"):  # a route may have settings of its own, and finds them as in Next.js
        for key, value in read_env(HERE / name).items():
            os.environ.setdefault(key, value)
    set_up_logging(config.log_level)
    access = logging.getLogger("uvicorn.access")  # our own line says more, and never a query
    access.handlers, access.propagate = [], False
    return config


def set_up_logging(level: str) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    logging.getLogger().setLevel(level.upper())
    for name in ("httpx", "httpx2", "openai", "httpcore2", "watchfiles"):  # they log each request, with its URL
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def warn_of_closed_doors(config: Config) -> None:
    for name, what in (("WEBCHAT_TOKEN", "/api/chat"), ("CRON_SECRET", "/api/cron")):
        if getattr(config, name.lower()) is None:
            logger.warning("%s is not set: %s answers 401 to everybody. Set it in the environment or .env", name, what)
    if config.is_offline:
        logger.warning("no model is connected, the offline one answers: set OPENAI_API_KEY or OPENAI_BASE_URL")


def message_of(exc: BaseException) -> str:
    """Say what is wrong: our own errors in their words, a module's with its traceback, a group's one by one."""
    if isinstance(exc, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", exc)
        return f"{group.message}:\n\n" + "\n".join(message_of(inner) for inner in group.exceptions)
    if isinstance(exc, RouteError | ConfigError):
        return f"{exc}\n"
    return "".join(traceback.format_exception(exc))


def report(exc: BaseException) -> None:
    print(message_of(exc), file=sys.stderr, end="", flush=True)


# The command line.


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app", description="Serve the routes folder.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("dev", help="serve with reload, and print the routes, a link to the chat page and a curl line")
    commands.add_parser("start", help="serve as in production: no reload, WEB_CONCURRENCY workers")
    commands.add_parser("routes", help="list the routes, or everything that is wrong with them")
    jobs = commands.add_parser("jobs", help="list what is due, running and failed, and when each schedule is next")
    jobs.add_argument("action", nargs="?", choices=["replay"], help="put a failed job back")
    jobs.add_argument("id", nargs="?", help="the id of the failed job")
    given = parser.parse_args(arguments)
    command = given.command
    if command == "jobs" and given.action and not given.id:
        parser.error("which job? Write: python -m app jobs replay ID")
    try:
        config = load_config(os.environ)
        if command == "routes":
            print(table(load_routes(config.routes_dir)))
            return 0
        if command == "jobs":
            return asyncio.run(run_jobs(config, given.id))
        check_port(config)
    except Exception as exc:
        report(exc)
        return 1
    return run_dev(config) if command == "dev" else run_start(config)


async def run_jobs(config: Config, replay: str | None) -> int:
    """List the jobs, or put a failed one back."""
    db = database(config.database_url)
    await db.open()
    try:
        worker = Worker(db, load_jobs(config.routes_dir.parent / "jobs"))
        if replay is not None:
            found = await worker.replay(replay)
            print(f"{replay} is due again" if found else f"No failed job is called {replay}; see: python -m app jobs")
            return 0 if found else 1
        overview = await worker.overview()
        for word in ("due", "running", "failed"):
            for row in overview[word]:
                how = f"attempt {row['attempts']}  {row['error'] or ''}"
                print(f"{word:8} {iso(row['run_at'])}  {row['id']}  {how}".rstrip())
        for name, at in overview["next"].items():
            print(f"next     {iso(at)}  {name}")
        return 0
    finally:
        await db.aclose()


def check_port(config: Config) -> None:
    """Raise `ConfigError` when the port cannot be listened on."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
    except OSError as exc:
        raise ConfigError(
            f"Cannot listen on {config.host} port {config.port}: {exc.strerror or exc}. "
            f"Stop what listens there, or choose another: PORT={config.port + 1} make dev"
        ) from None


def run_start(config: Config) -> int:
    set_up_logging(config.log_level)
    uvicorn.run(
        "app:app",
        host=config.host,
        port=config.port,
        workers=config.web_concurrency,
        log_config=None,
        timeout_graceful_shutdown=math.ceil(config.shutdown_grace) + 5,
    )
    return 0


def run_dev(config: Config) -> int:
    from uvicorn.supervisors.watchfilesreload import WatchFilesReload
    from watchfiles import watch

    # Python takes a cached file for the new one when it is as long and was saved within the same second
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    if config.webchat_token is None:  # one for this run, which the reloaded processes inherit
        os.environ["WEBCHAT_TOKEN"] = secrets.token_urlsafe(24)
    set_up_logging(config.log_level)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    folders = [HERE, config.routes_dir, config.routes_dir.parent]
    server = uvicorn.Config(
        "app:dev",
        factory=True,
        host=config.host,
        port=config.port,
        reload=True,
        reload_dirs=[str(folder) for folder in folders if folder.is_dir()],
        log_config=None,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    reloader = WatchFilesReload(server, target=DevServer(server).run, sockets=[server.bind_socket()])
    reloader.watch_filter = Sources(config)  # pyright: ignore[reportAttributeAccessIssue]
    reloader.should_exit = Flag()  # pyright: ignore[reportAttributeAccessIssue]
    options: dict[str, Any] = {"debounce": 200, "rust_timeout": 100, "yield_on_timeout": True}
    reloader.watcher = watch(*server.reload_dirs, watch_filter=None, stop_event=reloader.should_exit, **options)
    next(reloader.watcher)  # it watches from here on, so no change is missed while the app starts
    reloader.run()
    return 0


class Flag:
    """An event that a signal handler may set.

    `threading.Event` takes a lock to be set: a second signal (make passes its own on) then waits for the first one's
    handler, which it has interrupted, for ever.
    """

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float) -> bool:
        if not self._is_set:
            time.sleep(timeout)
        return self._is_set


class Sources:
    """Which changed files restart the development server."""

    def __init__(self, config: Config) -> None:
        base = config.routes_dir.parent
        self.trees = tuple(folder.resolve() for folder in (config.routes_dir, base / "public", base / "jobs"))

    def __call__(self, path: Path) -> bool:
        if path.suffix in (".pyc", ".swp", ".swx", ".tmp") or path.name.endswith("~") or "__pycache__" in path.parts:
            return False
        if any(tree in path.parents for tree in self.trees):
            return True  # any file or folder: a moved folder shows as itself, not as the files in it
        inside = path.relative_to(HERE).parts if HERE in path.parents else ()
        if not inside or inside[0] in ("tests", "bench", "docs", "data", ".venv", ".git"):
            return False
        return path.suffix == ".py" or inside in ((".env",), (".env.local",))


class DevServer(uvicorn.Server):
    """Prints what is served as soon as the port is open."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        app = cast("object", self.config.loaded_app)  # pyright: ignore[reportUnknownMemberType]
        if isinstance(app, Starlette):
            print(banner(app.state.config, [route for route in app.routes if isinstance(route, Route)]), flush=True)


def banner(config: Config, routes: Sequence[Route]) -> str:
    url = f"http://{'localhost' if config.host in ('127.0.0.1', '0.0.0.0') else config.host}:{config.port}"  # noqa: S104
    model = "the offline one (set OPENAI_API_KEY or OPENAI_BASE_URL to connect a real one)"
    if not config.is_offline:
        model = f"{config.model_smart} (smart), {config.model_fast} (fast) at {config.openai_base_url or 'OpenAI'}"
    lines = ["", f"  Serving {url}", "", *(f"  {line}" for line in table(routes).splitlines()), "", f"  Model: {model}"]
    if any(route.path == "/api/chat" for route in routes):
        token = str(config.webchat_token).split(",")[0]
        curl = ["curl", "-N", f"{url}/api/chat", "-H", f"Authorization: Bearer {token}"]
        curl += ["-H", "Content-Type: application/json", "-d", json.dumps({"message": "Hello, who are you?"})]
        lines += ["  Talk to it:", ""]
        if (config.routes_dir.parent / "public/index.html").is_file():
            lines += [f"  {url}/#token={quote(token, safe='')}", ""]  # a browser keeps a fragment to itself
        lines += [f"  {shlex.join(curl)}"]
    return "\n".join([*lines, ""])


def table(routes: Sequence[Route]) -> str:
    """One line a route: methods, path, file, and the folders whose middleware is around it."""
    rows = [(", ".join(sorted(route.handlers)), route.path, route.file, *guards_of(route)) for route in routes]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), *row[3:]]).rstrip()
        for row in rows
    )


def guards_of(route: Route) -> list[str]:
    names = [str(cls.__name__) for guard in route.guards for cls, _, _ in guard.middleware]
    return [f"inside {', '.join(names)}"] if names else []


if __name__ == "__main__":
    sys.exit(main())
