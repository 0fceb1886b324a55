"""GET /api/jobs: what is due, running and failed, and when each schedule is next; with the secret of /api/cron."""

from starlette.requests import Request
from starlette.responses import Response

from auth import operator, requires
from jsonresponse import JSONResponse
from state import State


@requires(operator)
async def GET(request: Request[State]) -> Response:
    return JSONResponse({"success": True, "data": await request.state["worker"].overview()})
