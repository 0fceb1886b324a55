"""A route: the path of one route.py, its handlers by verb, and the middleware around them."""

import inspect
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import anyio
from starlette import routing
from starlette.datastructures import URLPath
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, NoMatchFound
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import Request
from router.guards import Guard, Guarded, wrap
from router.nostore import NoStore
from router.paths import Segment, raw_path, split, tidy
from typed.binding import Bound, Call, Handler, bind

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


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
        max_body_bytes: int | None = None,
        timeout: float | None = None,
    ) -> None:
        self.segments = tuple(segments)
        self.handlers = dict(handlers)
        self.file = file
        self.guards = tuple(guard for guard in guards if file.startswith(guard.inside) and guard.may_wrap(segments))
        self.max_body_bytes = max_body_bytes
        self.timeout = timeout
        self.path = self.name = self.path_format = "/" + "/".join(map(str, segments))
        self.methods = set(handlers) | {"OPTIONS"} | ({"HEAD"} if "GET" in handlers else set[str]())
        self.allow = ", ".join(sorted(self.methods))
        self.endpoint = next(iter(handlers.values()), None)
        self.include_in_schema = False
        ranks = {segment.text: segment.rank for segment in segments if segment.rank}
        self.bound = {verb: bind(handler, verb, ranks) for verb, handler in handlers.items()}  # or a HandlerError
        self._apps = {verb: _endpoint(handlers[verb], bound, file, timeout) for verb, bound in self.bound.items()}
        if "HEAD" in self.methods:
            self._apps["HEAD"] = _head(self._apps.get("HEAD") or self._apps["GET"])
        self._singles = tuple((i, s.text) for i, s in enumerate(segments) if s.rank == 1)
        self._rest = segments[-1].text if segments and segments[-1].rank >= 2 else None
        self.app: ASGIApp = self._answer
        if all(guard.is_above(segments) for guard in self.guards):
            self.app = wrap(self._answer, self.guards)
        else:
            self.app = Guarded(self._answer, self.guards, self._readings, self.segments)

    def _readings(self, scope: Scope) -> Sequence[Sequence[str]]:
        parts: list[str] = []
        for rank, text in self.segments:
            value: Any = text if rank == 0 else scope["path_params"].get(text, ())
            parts.extend([value] if rank < 2 else value)
        if self._rest is None or not any("/" in part for part in parts):
            return [parts]
        return [parts, [part for part in "/".join(parts).split("/") if part]]  # as a handler reads it that joins them

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
        parts = split(path)
        if tidy(path) != path or parts is None or not self._fits(parts):
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
        if "body" in scope:
            scope["body"].check()
        method = scope["method"]
        if method in self._apps:
            return self._apps[method](scope, receive, send)
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


def _endpoint(handler: Handler, bound: Bound, file: str, timeout: float | None) -> ASGIApp:
    call = bound.call if timeout is None else _in_time(bound.call, timeout)

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        scope["endpoint"] = handler
        response = await call(Request(scope, receive, send))
        if not isinstance(response, Response):
            raise TypeError(
                f"No response is returned from route handler '{file}'. Expected a Response object but received "
                f"'{type(response).__name__}' (method: {scope['method']}, url: {scope['path']})."
            )
        await response(scope, receive, send)

    return NoStore(endpoint) if any(hasattr(check, "askers") for check in bound.checks) else endpoint


def _in_time(call: Call, timeout: float) -> Call:
    """Answer 504 where the handler has not returned in time. A stream that it returned is not cut."""

    async def in_time(request: Request) -> Any:
        with anyio.move_on_after(timeout):
            return await call(request)
        raise HTTPException(504, "The answer took too long")

    return in_time


def positional(handler: Handler, second: str = "params") -> int:
    """How many of (request, params) a handler takes. Raises `TypeError` when it needs anything else.

    A job's ``run`` takes (job, state): ``second`` is what its second is called.
    """
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
    return max(len(needed), 1 if places else 0, 2 if len(places) > 1 and places[1].name == second else 0)


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


class Routes(list[Route]):
    """The routes of a folder, in the order in which they are tried, and the guards of its paths."""

    def __init__(self, routes: Iterable[Route] = (), guards: Sequence[Guard] = ()) -> None:
        super().__init__(routes)
        self.guards = [guard for guard in guards if not guard.inside]
