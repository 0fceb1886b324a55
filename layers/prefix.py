"""One way of writing where the app is mounted: `uvicorn --root-path` takes ``app``, ``/app/`` and ``/`` too."""

from collections.abc import Awaitable
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send


class Prefix:
    """Write ``root_path`` as ``/app``, or as nothing, and the path below it with one slash between the two.

    Starlette's URLs, other middleware and the router then read one path. A server puts ``root_path`` before the path
    as it was given: behind ``/app/`` the path is ``/app//api/health``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # no coroutine of its own
        given: str = scope.get("root_path") or ""
        if not given:
            return self.app(scope, receive, send)
        root = "/" + given.strip("/") if given.strip("/") else ""
        if given != root and "path" in scope:
            path: str = scope["path"]
            scope["root_path"] = root
            if path.startswith(given) and path.removeprefix(given).startswith("/"):
                scope["path"] = root + path.removeprefix(given)
                raw: bytes | None = scope.get("raw_path")
                sent = next(
                    (one for one in (given.encode(), quote(given).encode()) if raw and raw.startswith(one)), b""
                )
                if raw and sent:
                    scope["raw_path"] = quote(root).encode() + raw.removeprefix(sent)
        return self.app(scope, receive, send)
