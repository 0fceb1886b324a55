"""Which of your routes anybody may ask, for a rule of your own: docs/testing.md shows one."""

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from app import create_app
from config import ROUTES, Config
from router import Route, Router
from router.public import public_files
from typed.binding import checks_of


def open_doors(database: Path, root: Path = ROUTES) -> set[str]:
    """Return the handlers, as "METHOD /path", that a request without a credential reaches.

    No handler runs: in the place of each stands one that says it was reached, behind the same checks and the same
    middleware. Whatever else is answered (401, a redirect to the login, 400, 403, 404) is a closed door. What a
    handler asks for by itself, such as the signature of a webhook, is not seen. ``database`` is a file to use.
    """
    app = create_app(Config(routes_dir=root, database_url=f"sqlite:///{database}"))
    routes = [route for route in app.router.routes if isinstance(route, Route)]
    empty = [
        Route(r.segments, {v: stub(h) for v, h in r.handlers.items()}, file=r.file, guards=r.guards) for r in routes
    ]
    files = public_files(root.parent / "public")
    app.router = Router(empty, files=files, lifespan=app.router.lifespan_context)
    found: set[str] = set()
    with TestClient(app, follow_redirects=False) as client:
        for route in empty:
            params: dict[str, Any] = {s.text: ["x"] if s.rank > 1 else "x" for s in route.segments if s.rank}
            for method in route.handlers:
                if client.request(method, route.url_path_for(route.path, **params)).headers.get("x-reached"):
                    found.add(f"{method} {route.path}")
    return found


def stub(handler: Any) -> Any:
    async def reached(request: Request) -> Response:
        return Response(headers={"x-reached": "1"})

    vars(reached)["checks"] = checks_of(handler)
    return reached
