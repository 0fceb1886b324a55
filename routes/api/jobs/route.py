"""GET /api/jobs: what is due, running and failed, what ran last, what comes next. POST does something about it.

Both with the secret of /api/cron. The command line's `jobs` does the same.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request

from auth import operator, requires
from errors import BadRequest
from jsonresponse import JSONResponse
from state import State
from worker import Impossible

Text = Annotated[str, Field(pattern=r"^[^\x00]+$")]


@dataclass
class Command:
    action: Literal["run", "cancel", "replay", "delete"] = "run"
    name: Text | None = None
    id: Text | None = None
    payload: Any = None


@requires(operator)
async def GET(request: Request[State]) -> JSONResponse[dict[str, Any]]:
    return JSONResponse({"success": True, "data": await request.state["worker"].overview()})


@requires(operator)
async def POST(request: Request[State], body: Command) -> JSONResponse[dict[str, Any]]:
    """Run ``{"name": "daily", "payload": ...}`` now, or ``{"action": "cancel" | "replay" | "delete", "id": ...}``."""
    worker, target = request.state["worker"], "name" if body.action == "run" else "id"
    text = body.name if body.action == "run" else body.id
    if text is None:
        raise BadRequest((target, "is required: a non-empty text"))
    try:
        match body.action:
            case "run":
                return JSONResponse({"success": True, "data": {"id": await worker.run(text, body.payload)}}, 202)
            case "cancel":
                state = await worker.cancel(text)
            case "replay":
                state = await worker.replay(text) or "waiting"
            case "delete":
                state = await worker.delete(text) or "deleted"
    except Impossible as exc:
        raise BadRequest((target, str(exc))) from None
    except ValueError as exc:
        raise BadRequest(("payload", str(exc))) from None
    return JSONResponse({"success": True, "data": {"id": text, "state": state}})
