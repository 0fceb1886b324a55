"""GET or POST /api/cron: begin the occurrences of schedules that are due. Call it every minute, with the secret."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from auth import operator, requires
from jsonresponse import JSONResponse
from state import State


@requires(operator)
async def GET(request: Request[State]) -> JSONResponse[dict[str, Any]]:
    return JSONResponse({"success": True, "data": {"jobs": await request.state["worker"].tick()}})


@requires(operator)
async def POST(request: Request[State]) -> JSONResponse[dict[str, Any]]:
    """Do the same: hosted schedulers send POST."""
    return await GET(request)


@requires(operator)
async def HEAD(request: Request[State]) -> Response:
    """Answer a monitor: unlike GET, it must not run anything."""
    return Response()
