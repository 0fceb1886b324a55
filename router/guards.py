"""Guards: the middleware of a folder, and which answers it wraps."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from errors import Errors
from router.paths import Segment


class Guard(NamedTuple):
    """The middleware of one folder: it wraps whatever answers at the folder's path and below."""

    segments: tuple[Segment, ...]  # the folder's path
    middleware: Sequence[Middleware]
    file: str
    inside: str = ""  # the (group) or @slot whose files alone it wraps: "routes/(club)/"

    def wraps(self, parts: Sequence[str], answering: Sequence[Segment] | None) -> bool:
        """Whether it wraps an answer at a path; ``answering`` is the path of the file that answers, if any does.

        A named folder's wraps all that is called so. That of an `[x]` wraps what no named folder answers, and so on.
        """
        for i, (rank, text) in enumerate(self.segments):
            reached = 3 if answering is None else rank_at(answering, i)
            if rank >= 2:
                return reached >= 2 and (i < len(parts) or rank == 3)
            if i >= len(parts) or (parts[i] != text if rank == 0 else reached == 0):
                return False
        return True

    def is_above(self, segments: Sequence[Segment]) -> bool:
        """Whether it wraps a route's path whatever the parameters are."""
        if len(self.segments) > len(segments):
            return False
        pairs = zip(self.segments, segments, strict=False)
        return all(mine.rank == own.rank and (mine.rank or mine.text == own.text) for mine, own in pairs)

    def may_wrap(self, segments: Sequence[Segment]) -> bool:
        """Whether there are parameters with which it wraps a route's path."""
        parts = [
            own.text if own.rank == 0 else self.segments[i].text if i < len(self.segments) else ""
            for i, own in enumerate(segments)
        ]
        if segments and segments[-1].rank >= 2:
            parts[len(segments) - 1 :] = [segment.text for segment in self.segments[len(segments) - 1 :]] or [""]
        return self.wraps(parts, segments)


def rank_at(segments: Sequence[Segment], i: int) -> int:
    """The rank of what stands at a place of a path; a catch-all stands at all that follow, too."""
    return segments[i].rank if i < len(segments) else segments[-1].rank if segments else 0


def wrap(app: ASGIApp, guards: Sequence[Guard]) -> ASGIApp:
    """Put the middleware of each folder around an app, the outermost folder first."""
    app = Errors(app) if guards else app  # inside, so that they see each answer as it is sent
    for guard in reversed(guards):
        for cls, args, kwargs in reversed(guard.middleware):
            app = cls(app, *args, **kwargs)
    return app


class Guarded:
    """An app with those guards around it whose paths a request is at, where only the request can tell which."""

    def __init__(
        self,
        app: ASGIApp,
        guards: Sequence[Guard],
        readings: Callable[[Scope], Sequence[Sequence[str]]],
        answering: Sequence[Segment] | None = None,
    ) -> None:
        self._app = app
        self._guards = guards
        self._readings = readings
        self._answering = answering
        self._wrapped: dict[tuple[int, ...], ASGIApp] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # no coroutine of its own
        readings = self._readings(scope)
        wrapping = [any(guard.wraps(parts, self._answering) for parts in readings) for guard in self._guards]
        chosen = tuple(i for i, wraps in enumerate(wrapping) if wraps)
        if chosen not in self._wrapped:
            self._wrapped[chosen] = wrap(self._app, [self._guards[i] for i in chosen])
        return self._wrapped[chosen](scope, receive, send)
