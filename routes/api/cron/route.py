"""GET /api/cron: run the jobs that are due. Call it every minute, with the secret."""

from starlette.requests import Request
from starlette.responses import Response

from auth import operator, requires
from jsonresponse import JSONResponse
from state import State


@requires(operator)
async def GET(request: Request[State]) -> Response:
    return JSONResponse({"success": True, "data": {"jobs": await request.state["worker"].tick()}})


@requires(operator)
async def HEAD(request: Request[State]) -> Response:
    """Answer a monitor: unlike GET, it must not run anything."""
    return Response()
