"""GET /api/health: open to everybody, says only whether the app, its database and its worker are there."""

from starlette.requests import Request
from starlette.responses import Response

from jsonresponse import JSONResponse
from state import State


async def GET(request: Request[State]) -> Response:
    worker = request.state["worker"]
    await worker.db.read("SELECT 1 AS one")
    if not worker.is_alive:
        return JSONResponse({"error": "No jobs are run here"}, 503)
    return JSONResponse({"success": True, "data": "ok"})
