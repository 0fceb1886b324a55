"""GET /api/openapi.json: every route as an OpenAPI 3.1 document; with the secret of /api/cron, unless OPENAPI=open."""

from typing import Any

from starlette.requests import Request

from auth import Who, operator, requires
from jsonresponse import JSONResponse
from openapi import document, project
from router import Route
from state import State


def reader(request: Request[State]) -> Who | None:
    """Everybody with OPENAPI=open, else an operator."""
    return Who("visitor") if request.state["config"].openapi == "open" else operator(request)


vars(reader)["schemes"] = vars(operator)["schemes"]


@requires(reader)
def GET(request: Request[State]) -> JSONResponse[dict[str, Any]]:
    """Describe the API."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    return JSONResponse(document(routes, **project(), server=request.scope.get("root_path") or "/"))
