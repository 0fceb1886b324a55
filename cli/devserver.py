"""The development server: serves with reload, and prints what is served, and what to open or paste to talk to it."""

import json
import logging
import os
import re
import secrets
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette

from cli.protocol import Protocol
from config import HERE, Config
from logs import set_up_logging
from router import Route
from startup import BOLD, DIM, paint

# a variable of its own: as WEBCHAT_TOKEN the environment would hold it against the .env files
DEV_TOKEN = "ROUTE_PY_DEV_TOKEN"  # noqa: S105 - the name


def run_dev(config: Config) -> int:
    from uvicorn.supervisors.watchfilesreload import WatchFilesReload
    from watchfiles import watch

    # Python takes a cached file for the new one when it is as long and was saved within the same second
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ[DEV_TOKEN] = secrets.token_urlsafe(24)  # for this run, and its reloads, where the settings have none
    set_up_logging(config.log_level, config.log_format)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    folders = [HERE, config.routes_dir, config.routes_dir.parent]
    server = uvicorn.Config(
        "app:dev",
        factory=True,
        http=Protocol,
        host=config.host,
        port=config.port,
        reload=True,
        reload_dirs=[str(folder) for folder in folders if folder.is_dir()],
        log_config=None,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    reloader = WatchFilesReload(server, target=DevServer(server).run, sockets=[server.bind_socket()])
    reloader.watch_filter = Sources(config)  # pyright: ignore[reportAttributeAccessIssue] - it is only called
    reloader.should_exit = Flag()  # pyright: ignore[reportAttributeAccessIssue] - what is used of it
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


# what editors and file managers write beside a file: locks, backups, folders' views
LEFT_BEHIND = re.compile(r".*\.(pyc|sw[a-z]|tmp|bak|orig)|.*~|\.#.*|#.*#|\.DS_Store|\._.*|Thumbs\.db|4913")


class Sources:
    """Which changed files restart the development server."""

    def __init__(self, config: Config) -> None:
        base = config.routes_dir.parent
        beside = (base / name for name in ("public", "jobs", "channels"))
        self.trees = tuple(folder.resolve() for folder in (config.routes_dir, *beside))

    def __call__(self, path: Path) -> bool:
        if LEFT_BEHIND.fullmatch(path.name) or "__pycache__" in path.parts:
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
        try:
            await super().startup(sockets)
        except SystemExit:  # what is wrong was said; the supervisor stays
            print("Save a file to try again, or stop with Ctrl-C.", file=sys.stderr, flush=True)
            raise
        app = cast("object", self.config.loaded_app)  # pyright: ignore[reportUnknownMemberType] - untyped
        if isinstance(app, Starlette):
            print(banner(app.state.config, [route for route in app.routes if isinstance(route, Route)]), flush=True)


def banner(config: Config, routes: Sequence[Route]) -> str:
    url = url_of(config)
    model = "the offline one (set OPENAI_API_KEY or OPENAI_BASE_URL to connect a real one)"
    if not config.is_offline:
        model = f"{config.model_smart} (smart), {config.model_fast} (fast) at {config.openai_base_url or 'OpenAI'}"
    lines = ["", f"  Serving {paint(url, BOLD, sys.stdout)}", "", *(f"  {line}" for line in table(routes).splitlines())]
    lines += ["", f"  Model: {model}"]
    if any(route.path == "/api/chat" for route in routes):
        token = str(config.webchat_token).split(",")[0]
        curl = ["curl", "-N", f"{url}/api/chat", "-H", f"Authorization: Bearer {token}"]
        curl += ["-H", "Content-Type: application/json", "-d", json.dumps({"message": "Hello, who are you?"})]
        lines += ["  Talk to it:", ""]
        if (config.routes_dir.parent / "public/index.html").is_file():
            lines += [f"  {url}/#token={quote(token, safe='')}", ""]  # a browser keeps a fragment to itself
        lines += [f"  {shlex.join(curl)}"]
    return "\n".join([*lines, ""])


def url_of(config: Config) -> str:
    """Where the machine itself finds the server."""
    everywhere = ("127.0.0.1", "0.0.0.0", "::", "::1")  # noqa: S104 - compared with, not listened on
    host = "[::1]" if config.host == "::1" else "localhost" if config.host in everywhere else config.host
    return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{config.port}"


def table(routes: Sequence[Route]) -> str:
    """One line a route: methods, path, file, what it sets for itself, and the middleware that wraps it."""
    rows = [(", ".join(sorted(route.handlers)), route.path, route.file, notes_of(route)) for route in routes]
    methods, paths, files = (max((len(row[i]) for row in rows), default=0) for i in range(3))
    return "\n".join(
        f"{verbs:{methods}}  {paint(f'{path:{paths}}', BOLD, sys.stdout)}  "
        + paint(f"{file:{files}}  {notes}".rstrip(), DIM, sys.stdout)
        for verbs, path, file, notes in rows
    )


def notes_of(route: Route) -> str:
    limits = {"max_body_bytes": route.max_body_bytes, "timeout": route.timeout}
    notes = [f"{name}={value}" for name, value in limits.items() if value is not None]
    names: list[str] = []
    for guard in route.guards:
        where = "" if guard.is_above(route.segments) else f" at /{'/'.join(map(str, guard.segments))}"
        names += [f"{cls.__name__}{where}" for cls, _, _ in guard.middleware]
    return ", ".join([*notes, *([f"inside {', '.join(names)}"] if names else [])])
