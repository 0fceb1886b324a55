"""Which path is whose: routes, the table that finds them, methods and redirects.

The table keeps the order that the Next.js router keeps (docs/routing.md): static paths first, then depth first
through the tree, at each node its own route, its static children, ``[x]``, ``[...x]``, ``[[...x]]``, going back
when a branch fails. The first route that matches answers, whatever the method. It knows nothing of files but
their names in messages: `loader` reads the folders.
"""

import sys
from collections.abc import Awaitable, Callable, Container, Sequence
from posixpath import normpath
from typing import Any, Protocol
from urllib.parse import unquote

from starlette import routing
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from router.guards import Guard, Guarded, wrap
from router.paths import Segment, as_sent, has_dots, is_plain, raw_path, split, tidy
from router.route import VERBS, Route, Routes, positional
from typed.binding import Handler

__all__ = ["VERBS", "Guard", "Handler", "Route", "Router", "Routes", "Segment", "positional"]


class File(Protocol):
    """What answers at one path without a parameter, before any route: a file of public/."""

    @property
    def segments(self) -> Sequence[Segment]: ...

    def params(self, parts: Sequence[str]) -> dict[str, Any]: ...

    @property
    def app(self) -> ASGIApp: ...


class _Node:
    """A folder of the tree."""

    __slots__ = ("optional", "param", "rest", "route", "static")

    def __init__(self) -> None:
        self.route: Route | File | None = None
        self.static: dict[str, _Node] = {}
        self.param: _Node | None = None
        self.rest: Route | None = None
        self.optional: Route | None = None

    def child(self, segment: Segment) -> "_Node":
        if segment.rank == 0:
            return self.static.setdefault(segment.text, _Node())
        if self.param is None:
            self.param = _Node()
        return self.param


def _find(node: _Node, parts: Sequence[str], i: int) -> "Route | File | None":
    if i == len(parts):
        return node.route or node.optional
    if (child := node.static.get(parts[i])) and (found := _find(child, parts, i + 1)):
        return found
    if node.param and (found := _find(node.param, parts, i + 1)):
        return found
    return node.rest or node.optional


class Router(routing.Router):
    """Starlette's router with tables in front: one look-up for a static path, one walk for any other.

    Most paths with a parameter end with it, and have a plain word there: these are looked up by their folder, since
    the walk could only come to the same route, at twice the cost.

    ``files`` answer before any route. Routes that are added to the app later (`app.mount`, `app.add_route`, those of
    WebSockets) are tried after ours, as Starlette tries them, inside the guards of the path. ``say`` words why a start
    failed, where Starlette gives the traceback.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        files: Sequence[File] = (),
        lifespan: Lifespan[Any] | None = None,
        say: Callable[[BaseException], str] | None = None,
    ) -> None:
        super().__init__(routes, lifespan=lifespan)
        self._say = say
        self._count = len(routes)
        self._tree = _Node()
        self._static: dict[bytes, tuple[Route | File, ASGIApp]] = {}
        self._leaves: dict[bytes, tuple[Container[str], Route]] = {}  # by folder: its static children, and its [x]
        self._guards: Sequence[Guard] = getattr(routes, "guards", ())
        self._apps: dict[File, ASGIApp] = {}
        self._rest: ASGIApp = Guarded(self._added, self._guards, self._readings) if self._guards else self._added
        for route in routes:
            self._add(route)
        for file in files:
            if file.segments or not (self._tree.route or self._tree.optional):
                names = [segment.text for segment in file.segments]
                around = [guard for guard in self._guards if guard.wraps(names, file.segments)]
                self._apps[file] = wrap(file.app, around)
                self._add(file)

    def _add(self, route: "Route | File") -> None:
        node = parent = self._tree
        for segment in route.segments:
            if segment.rank < 2:
                parent, node = node, node.child(segment)
                continue
            assert isinstance(route, Route)
            if segment.rank == 2:
                node.rest = route
            else:
                node.optional = route
            return
        node.route = route
        *above, last = route.segments or [Segment(0, "")]
        if any(segment.rank for segment in above):
            return
        folder = b"".join([b"/" + as_sent(segment.text) for segment in above])
        if last.rank == 0:
            self._static[folder + b"/" + as_sent(last.text)] = route, self._app_of(route)
        elif isinstance(route, Route):
            self._leaves[folder] = (parent.static, route)

    def _app_of(self, route: "Route | File") -> ASGIApp:
        return route.app if isinstance(route, Route) else self._apps[route]

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - no coroutine of its own: it hands one on
        self, scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send) if scope["type"] == "lifespan" else self._rest(scope, receive, send)
        scope.setdefault("router", self)
        raw: bytes = scope.get("raw_path") or b""
        if not raw or scope.get("root_path"):
            _, raw = raw_path(scope)
        if (found := self._static.get(raw)) is not None:
            route, app = found
            return self._answer(route, app, {}, scope, receive, send)
        folder, slash, last = raw.rpartition(b"/")
        if slash and (leaf := self._leaves.get(folder)) and last.translate(None, b"-_").isalnum():
            names, route = leaf
            if (text := last.decode()) not in names:
                return self._answer(route, route.app, {route.segments[-1].text: text}, scope, receive, send)
        return self._search(raw.decode("latin-1"), scope, receive, send)

    def _search(self, path: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer at a raw path (bytes as latin-1) by the walk through the tree."""
        if is_plain(path):
            parts = path[1:].split("/")
        elif not path.startswith("/"):
            raise HTTPException(404)  # OPTIONS *
        else:
            there = tidy(path)
            if there != path:
                is_ours = has_dots(path) or _find(self._tree, split(there) or [], 0)
                if not is_ours and self._is_added(scope):
                    return self._rest(scope, receive, send)
                return _redirect(raw_path(scope)[0].decode("latin-1") + there, scope, receive, send)
            decoded = split(path)
            if decoded is None:
                raise HTTPException(400, "The path has a malformed percent-escape")
            parts = decoded
        if (route := _find(self._tree, parts, 0)) is None:
            return self._rest(scope, receive, send)
        return self._answer(route, self._app_of(route), route.params(parts), scope, receive, send)

    def _answer(
        self,
        route: "Route | File",
        app: ASGIApp,
        params: dict[str, Any],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> Awaitable[None]:
        scope["route"] = route
        scope["path_params"] = {**scope["path_params"], **params} if "path_params" in scope else params
        if "body" in scope and (limit := getattr(route, "max_body_bytes", None)) is not None:
            scope["body"].limit = limit
        return app(scope, receive, send)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def telling(message: Message) -> None:
            exc = sys.exception()
            if message["type"] == "lifespan.startup.failed" and exc is not None and self._say is not None:
                message["message"] = self._say(exc).rstrip()
            await send(message)

        await super().lifespan(scope, receive, telling)

    async def _added(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Try what was added to the app since, in Starlette's own way; 404 where nothing was."""
        if (body := scope.get("body")) is not None:
            body.check()
        added = self.routes[self._count :]
        if not added:
            return await self.not_found(scope, receive, send)
        await routing.Router(added, redirect_slashes=self.redirect_slashes).app(scope, receive, send)

    def _is_added(self, scope: Scope) -> bool:
        """Whether a route that was added to the app answers; unlike ours, it may want a slash at the end."""
        added = self.routes[self._count :]
        scopes = (scope, {**scope, "path": scope["path"] + "/"}) if added else ()
        return any(route.matches(variant)[0] is not Match.NONE for route in added for variant in scopes)

    def _readings(self, scope: Scope) -> Sequence[Sequence[str]]:
        """All that a path may be read as by what was added: our way, Starlette's, and that of a folder of files."""
        raw = raw_path(scope)[1].decode("latin-1")
        text = unquote(raw)
        decoded = [[part for part in path.split("/") if part] for path in (text, normpath("/" + text))]
        return [split(tidy(raw)) or [], *decoded]


async def _redirect(path: str, scope: Scope, receive: Receive, send: Send) -> None:
    query: bytes = scope.get("query_string", b"")
    url = path + ("?" + query.decode("latin-1") if query else "")
    # a path can only begin with one slash here, so it never names another host
    await RedirectResponse(url, status_code=308)(scope, receive, send)
