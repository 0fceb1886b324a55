"""GET or POST /api/cron: begin the occurrences of schedules that are due. Call it every minute, with the secret."""

from starlette.requests import Request
from starlette.responses import Response

from auth import require_cron_secret
from jsonresponse import JSONResponse
from state import State


async def GET(request: Request[State]) -> Response:
    require_cron_secret(request.headers, request.state["config"].cron_secret)
    return JSONResponse({"success": True, "data": {"jobs": await request.state["worker"].tick()}})


async def POST(request: Request[State]) -> Response:
    """Do the same: hosted schedulers send POST."""
    return await GET(request)


async def HEAD(request: Request[State]) -> Response:
    """Answer a monitor: unlike GET, it must not run anything."""
    require_cron_secret(request.headers, request.state["config"].cron_secret)
    return Response()
