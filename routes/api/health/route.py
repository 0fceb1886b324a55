"""GET /api/health: open to everybody, says only whether the app, its worker and its database do their work."""

import logging

from starlette.requests import Request
from starlette.responses import Response

from jsonresponse import JSONResponse
from state import State

logger = logging.getLogger("app")


async def GET(request: Request[State]) -> Response:
    try:
        await request.state["db"].try_write()
    except Exception as exc:
        logger.error("the database takes no write: %s", str(exc) or type(exc).__name__)
        return JSONResponse({"error": "The database takes no write"}, 503)
    if not request.state["worker"].is_alive:
        return JSONResponse({"error": "No jobs are run here"}, 503)
    return JSONResponse({"success": True, "data": "ok"})
