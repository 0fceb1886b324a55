"""GET /api/health: open to everybody, says only whether the app and its database answer."""

from starlette.requests import Request
from starlette.responses import Response

from jsonresponse import JSONResponse
from state import State


async def GET(request: Request[State]) -> Response:
    await request.state["worker"].db.read("SELECT 1 AS one")
    return JSONResponse({"success": True, "data": "ok"})
