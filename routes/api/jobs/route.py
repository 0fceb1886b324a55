"""GET /api/jobs: what is due, running and failed, and when each schedule is next; with the secret of /api/cron."""

from starlette.requests import Request
from starlette.responses import Response

from auth import require_cron_secret
from jsonresponse import JSONResponse
from state import State


async def GET(request: Request[State]) -> Response:
    require_cron_secret(request.headers, request.state["config"].cron_secret)
    return JSONResponse({"success": True, "data": await request.state["worker"].overview()})
