"""GET /api/cron: run the jobs that are due. Call it every minute, with the secret."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from auth import Unauthorized, bearer, is_secret
from state import State


async def GET(request: Request[State]) -> Response:
    require_secret(request)
    return JSONResponse({"success": True, "data": {"jobs": await request.state["worker"].tick()}})


async def HEAD(request: Request[State]) -> Response:
    """Answer a monitor: unlike GET, it must not run anything."""
    require_secret(request)
    return Response()


def require_secret(request: Request[State]) -> None:
    given = request.headers.get("x-cron-secret") or bearer(request.headers)  # hosted schedulers send a bearer token
    if not is_secret(given, request.state["config"].cron_secret):
        raise Unauthorized
