"""Which path is whose: routes, the table that finds them, methods and redirects.

The table keeps the order that the Next.js router keeps (docs/routing.md): static paths first, then depth first
through the tree, at each node its own route, its static children, ``[x]``, ``[...x]``, ``[[...x]]``, going back
when a branch fails. The first route that matches answers, whatever the method. It knows nothing of files but
their names in messages: `loader` reads the folders.
"""

import inspect
import os
import re
from collections.abc import Awaitable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes

from starlette import routing
from starlette.datastructures import URLPath
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, NoMatchFound
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from errors import Errors, Request
from typed.binding import Call, Handler, bind

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Segment(NamedTuple):
    """One part of a route's path, between two slashes. Segments sort in the order that routes are tried."""

    rank: Literal[0, 1, 2, 3]  # literal text, [x], [...x], [[...x]]
    text: str  # the decoded text, or the parameter's name

    def __str__(self) -> str:
        return (self.text, f"[{self.text}]", f"[...{self.text}]", f"[[...{self.text}]]")[self.rank]


class Guard(NamedTuple):
    """The middleware of one folder: it wraps each route at or below ``depth`` segments from the root."""

    depth: int
    middleware: Sequence[Middleware]
    covers_paths: bool  # False inside a (group), which owns routes but no paths: unknown paths are not its own


class Route(routing.BaseRoute):
    """One route file: its path, its handlers by verb, and the middleware around them.

    ``path`` and ``name`` are written as folders are, `/users/[id]`, so that
    ``request.url_for("/users/[id]", id="7")`` finds it.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        handlers: Mapping[str, Handler],
        *,
        file: str = "?",
        guards: Sequence[Guard] = (),
    ) -> None:
        self.segments = tuple(segments)
        self.handlers = dict(handlers)
        self.file = file
        self.guards = tuple(guards)
        self.path = self.name = "/" + "/".join(map(str, segments))
        self.methods = set(handlers) | {"OPTIONS"} | ({"HEAD"} if "GET" in handlers else set[str]())
        self.allow = ", ".join(sorted(self.methods))
        self.endpoint = next(iter(handlers.values()), None)
        self.include_in_schema = False
        ranks = {segment.text: segment.rank for segment in segments if segment.rank}
        self.bound = {verb: bind(handler, verb, ranks) for verb, handler in handlers.items()}  # or a HandlerError
        self._apps = {verb: _endpoint(handlers[verb], bound.call, file) for verb, bound in self.bound.items()}
        if "HEAD" in self.methods:
            self._apps["HEAD"] = _head(self._apps.get("HEAD") or self._apps["GET"])
        self._singles = tuple((i, s.text) for i, s in enumerate(segments) if s.rank == 1)
        self._rest = segments[-1].text if segments and segments[-1].rank >= 2 else None
        self.app: ASGIApp = wrap(Errors(self._answer), guards) if guards else self._answer

    def params(self, parts: Sequence[str]) -> dict[str, Any]:
        """The parameters of a path that this route matches: `str`, or `list[str]` for a catch-all."""
        params: dict[str, Any] = {}
        for i, name in self._singles:
            params[name] = parts[i]
        if self._rest is not None and len(parts) >= len(self.segments):
            params[self._rest] = list(parts[len(self.segments) - 1 :])
        return params

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match one path without the table, as Starlette's own router and its tools ask."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path = raw_path(scope)[1].decode("latin-1")
        path, redirect = tidy(path)
        parts = split(path)
        if redirect or parts is None or not self._fits(parts):
            return Match.NONE, {}
        child: Scope = {"endpoint": self.handlers.get(scope["method"], self.endpoint)}
        child["path_params"] = {**scope.get("path_params", {}), **self.params(parts)}
        return Match.FULL, child

    def _fits(self, parts: Sequence[str]) -> bool:
        fixed = len(self.segments) - (self._rest is not None)
        optional = bool(self.segments) and self.segments[-1].rank == 3
        if len(parts) < fixed or (len(parts) != fixed if self._rest is None else len(parts) == fixed and not optional):
            return False
        return all(s.rank == 1 or s.text == part for s, part in zip(self.segments[:fixed], parts, strict=False))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that this route matches, as Starlette's own router calls it."""
        await self.app(scope, receive, send)

    def _answer(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        method = scope["method"]
        app = self._apps.get(method)
        if app is not None:
            return app(scope, receive, send)
        if method == "OPTIONS":
            return Response(status_code=204, headers={"allow": self.allow})(scope, receive, send)
        raise HTTPException(405, headers={"Allow": self.allow})

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Build the path: each value is percent-encoded, a catch-all takes a sequence of segments."""
        wanted = {s.text for s in self.segments if s.rank in (1, 2)}
        if name != self.name or not wanted <= set(path_params) <= wanted | {self._rest}:
            raise NoMatchFound(name, path_params)
        parts: list[Any] = []
        for segment in self.segments:
            value = segment.text if segment.rank == 0 else path_params.get(segment.text, [])
            parts.extend([value] if segment.rank < 2 or isinstance(value, str) else value)
        texts = [str(part) for part in parts]
        if not self._fits(texts) or any(text in ("", ".", "..") for text in texts):  # no path leads there
            raise NoMatchFound(name, path_params)
        return URLPath("/" + "/".join(quote(text, safe="") for text in texts), protocol="http")

    def __repr__(self) -> str:
        return f"Route(path={self.path!r}, methods={sorted(self.methods)}, file={self.file!r})"


def _endpoint(handler: Handler, call: Call, file: str) -> ASGIApp:

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        scope["endpoint"] = handler
        response = await call(Request(scope, receive, send))
        if not isinstance(response, Response):
            raise TypeError(
                f"No response is returned from route handler '{file}'. Expected a Response object but received "
                f"'{type(response).__name__}' (method: {scope['method']}, url: {scope['path']})."
            )
        await response(scope, receive, send)

    return endpoint


def positional(handler: Handler) -> int:
    """How many of (request, params) a handler takes. Raises `TypeError` when it needs anything else."""
    for follow_wrapped in (False, True):
        signature = inspect.signature(handler, follow_wrapped=follow_wrapped)
        parameters = list(signature.parameters.values())
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            break
    else:
        return 1  # a decorator that hides what it wraps
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in places if p.default is p.empty]
    if len(needed) > 2 or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise TypeError(str(signature))
    # what has a default is the handler's own affair, unless it is called what we would hand in
    return max(len(needed), 1 if places else 0, 2 if len(places) > 1 and places[1].name == "params" else 0)


def _head(get: ASGIApp) -> ASGIApp:
    """Answer HEAD with the head of GET's answer: RFC 9110 9.3.2. A stream ends at its head."""

    async def head(scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def headers_only(message: Message) -> None:
            nonlocal started
            if not started:
                started = True
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await get(scope, receive, headers_only)

    return head


def wrap(app: ASGIApp, guards: Sequence[Guard]) -> ASGIApp:
    """Put the middleware of each folder around an app, the outermost folder first."""
    for guard in reversed(guards):
        for cls, args, kwargs in reversed(guard.middleware):
            app = cls(app, *args, **kwargs)
    return app


class _Node:
    """A folder of the tree. ``route`` answers here, ``unknown`` answers paths below that no route matches."""

    __slots__ = ("optional", "param", "rest", "route", "static", "unknown")

    def __init__(self) -> None:
        self.route: Route | PublicFile | None = None
        self.static: dict[str, _Node] = {}
        self.param: _Node | None = None
        self.rest: Route | None = None
        self.optional: Route | None = None
        self.unknown: ASGIApp | None = None

    def child(self, segment: Segment) -> "_Node":
        if segment.rank == 0:
            return self.static.setdefault(segment.text, _Node())
        if self.param is None:
            self.param = _Node()
        return self.param


def _find(node: _Node, parts: Sequence[str], i: int) -> "Route | PublicFile | None":
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

    ``public`` is a folder whose files, listed now, answer before any route. Routes that are added to the app
    later (`app.mount`, `app.add_route`) are tried after ours, as Starlette tries them.
    """

    def __init__(
        self, routes: Sequence[Route], *, public: Path | None = None, lifespan: Lifespan[Any] | None = None
    ) -> None:
        super().__init__(routes, lifespan=lifespan)
        self._count = len(routes)
        self._tree = _Node()
        self._static: dict[bytes, Route | PublicFile] = {}
        self._leaves: dict[bytes, tuple[Container[str], Route]] = {}  # by folder: its static children, and its [x]
        for route in routes:
            self._add(route)
        for file in public_files(public) if public else ():
            if file.name or not (self._tree.route or self._tree.optional):
                self._add(file)

    def _add(self, route: "Route | PublicFile") -> None:
        node = parent = self._tree
        for depth, segment in enumerate(route.segments):
            self._guard(node, route, depth)
            if segment.rank < 2:
                parent, node = node, node.child(segment)
            elif segment.rank == 2:
                node.rest = route if isinstance(route, Route) else None
                return
            else:
                node.optional = route if isinstance(route, Route) else None
                return
        self._guard(node, route, len(route.segments))
        node.route = route
        *above, last = route.segments or [Segment(0, "")]
        if any(segment.rank for segment in above):
            return
        folder = b"".join([b"/" + as_sent(segment.text) for segment in above])
        if last.rank == 0:
            self._static[folder + b"/" + as_sent(last.text)] = route
        elif isinstance(route, Route):
            self._leaves[folder] = (parent.static, route)

    def _guard(self, node: _Node, route: "Route | PublicFile", depth: int) -> None:
        if node.unknown is None and isinstance(route, Route):
            guards = [guard for guard in route.guards if guard.covers_paths and guard.depth <= depth]
            if any(guard.depth == depth for guard in guards):
                node.unknown = wrap(Errors(self.not_found), guards)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - no coroutine of its own: it hands one on
        self, scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        if "router" not in scope:
            scope["router"] = self
        raw: bytes = scope.get("raw_path") or b""
        if not raw or scope.get("root_path"):
            _, raw = raw_path(scope)
        if (route := self._static.get(raw)) is not None:
            return self._answer(route, {}, scope, receive, send)
        folder, slash, last = raw.rpartition(b"/")
        if slash and (leaf := self._leaves.get(folder)) and last.translate(None, b"-_").isalnum():
            names, route = leaf
            if (text := last.decode()) not in names:
                return self._answer(route, {route.segments[-1].text: text}, scope, receive, send)
        return self._search(raw.decode("latin-1"), scope, receive, send)

    def _search(self, path: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer at a raw path (bytes as latin-1) by the walk through the tree."""
        if is_plain(path):
            parts = path[1:].split("/")
        elif not path.startswith("/"):
            raise HTTPException(404)  # OPTIONS *
        else:
            path, redirect = tidy(path)
            if redirect and self._is_added(scope) and not _find(self._tree, split(path) or [], 0):
                return self.app(scope, receive, send)
            if redirect:
                return _redirect(raw_path(scope)[0].decode("latin-1") + path, scope, receive, send)
            decoded = split(path)
            if decoded is None:
                raise HTTPException(400, "The path has a malformed percent-escape")
            parts = decoded
        if (route := _find(self._tree, parts, 0)) is None:
            return self._unmatched(parts, scope, receive, send)
        return self._answer(route, route.params(parts), scope, receive, send)

    def _answer(
        self, route: "Route | PublicFile", params: dict[str, Any], scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[None]:
        scope["route"] = route
        scope["path_params"] = {**scope["path_params"], **params} if scope.get("path_params") else params
        return route.app(scope, receive, send)

    async def _unmatched(self, parts: Sequence[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Try what was added to the app since; else 404, inside the middleware of the deepest folder on the way."""
        if self._is_added(scope):
            return await self.app(scope, receive, send)
        answer, nodes = self._tree.unknown or self.not_found, [self._tree]
        for part in parts:
            nodes = [child for node in nodes for child in (node.static.get(part), node.param) if child]
            answer = next((node.unknown for node in nodes if node.unknown), answer)
        await answer(scope, receive, send)

    def _is_added(self, scope: Scope) -> bool:
        """Whether a route that was added to the app answers; unlike ours, it may want a slash at the end."""
        added = self.routes[self._count :]
        scopes = (scope, {**scope, "path": scope["path"] + "/"}) if added else ()
        return any(route.matches(variant)[0] is not Match.NONE for route in added for variant in scopes)


def is_plain(path: str) -> bool:
    """Whether a raw path (bytes as latin-1) is surely tidy, and its segments are written as they are.

    Plain searches cost 0.2 us, an expression that says it exactly more than twice as much.
    """
    untidy = "%" in path or "//" in path or "\\" in path or "/." in path or path.endswith("/") or path[:1] != "/"
    return not untidy and path.isascii()


_DOT = re.compile(r"\.|%2[eE]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def tidy(path: str) -> tuple[str, bool]:
    """Return the path that a raw path stands for, and whether the client is to be sent there (308).

    As Next.js does, one step at a time: ``//`` and ``\\`` collapse; else dot segments are resolved in silence
    (RFC 3986 5.2.4, within the root), and a slash at the end goes.
    """
    if "//" in path or "\\" in path:
        return re.sub(r"/{2,}", "/", path.replace("\\", "/")), True
    kept: list[str] = []
    parts = path.split("/")[1:]
    for i, part in enumerate(parts):
        dots = _DOT.sub(".", part)
        if dots == "..":
            del kept[-1:]
        if dots in (".", ".."):
            if i == len(parts) - 1:
                kept.append("")
        else:
            kept.append(part)
    path = "/" + "/".join(kept)
    return (path[:-1], True) if len(path) > 1 and path.endswith("/") else (path, False)


def split(path: str) -> list[str] | None:
    """Split a raw path (bytes as latin-1) on its slashes and decode each segment once.

    None where an escape is malformed or the text is not UTF-8, and for what is no path, such as ``*``.
    """
    if not path.startswith("/"):
        return None
    parts = path[1:].split("/") if len(path) > 1 else []
    if _BAD_ESCAPE.search(path):
        return None
    try:
        return [unquote_to_bytes(part.encode("latin-1")).decode() for part in parts]
    except UnicodeDecodeError:
        return None


def as_sent(text: str) -> bytes:
    """A segment as clients usually write it: what RFC 3986 allows in a path stays, the rest is percent-encoded."""
    return quote(text, safe="!$&'()*+,;=:@", errors="surrogateescape").encode()


def raw_path(scope: Scope) -> tuple[bytes, bytes]:
    """Return where the app is mounted and the path below it, both as the client wrote them."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    if root := scope.get("root_path", "").rstrip("/"):
        cuts = [i for i, byte in enumerate(raw) if byte == 0x2F and i] + [len(raw)]
        for cut in cuts:
            if unquote(raw[:cut].decode("latin-1")) == root:
                return raw[:cut], raw[cut:] or b"/"
    return b"", raw


async def _redirect(path: str, scope: Scope, receive: Receive, send: Send) -> None:
    query: bytes = scope.get("query_string", b"")
    url = path + ("?" + query.decode("latin-1") if query else "")
    # a path can only begin with one slash here, so it never names another host
    await RedirectResponse(url, status_code=308)(scope, receive, send)


class PublicFile:
    """One file of the public folder, served by Starlette's `StaticFiles` (ETag, Range, HEAD)."""

    def __init__(self, name: str, files: StaticFiles) -> None:
        self.name = name  # "" for index.html, which answers at / unless a route does
        self.segments = tuple(Segment(0, part) for part in name.split("/") if part)
        self.path = "/" + name
        self._files = files

    def params(self, parts: Sequence[str]) -> dict[str, Any]:
        return {}

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._files.get_response(self.name or "index.html", scope)
        # else a browser guesses how long it may keep one file of a page, and not the other, after an upgrade
        response.headers["Cache-Control"] = "public, max-age=0"
        await response(scope, receive, send)


def public_files(folder: Path) -> list[PublicFile]:
    """List the files below a folder, once: a request for anything else never touches the disk."""
    if not folder.is_dir():
        return []
    files = StaticFiles(directory=folder)
    names = [
        os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
        for place, _, found in os.walk(folder)
        for name in found
    ]
    index = [PublicFile("", files)] if "index.html" in names else []
    return index + [PublicFile(name, files) for name in sorted(names)]
