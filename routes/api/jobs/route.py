"""GET /api/jobs: what is due, running and failed, what ran last, what comes next. POST does something about it.

Both with the secret of /api/cron. The command line's `jobs` does the same.
"""

from collections.abc import Mapping
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from auth import require_cron_secret
from errors import BadRequest
from jsonresponse import JSONResponse
from state import State
from worker import Impossible, Worker

ACTIONS = ("run", "cancel", "replay", "delete")


async def GET(request: Request[State]) -> Response:
    require_cron_secret(request.headers, request.state["config"].cron_secret)
    return JSONResponse({"success": True, "data": await request.state["worker"].overview()})


async def POST(request: Request[State]) -> Response:
    """Run ``{"name": "daily", "payload": ...}`` now, or ``{"action": "cancel" | "replay" | "delete", "id": ...}``."""
    require_cron_secret(request.headers, request.state["config"].cron_secret)
    body = await request.json()
    if not isinstance(body, dict):
        raise BadRequest(("body", 'must be a JSON object such as {"name": "daily"}'))
    asked = cast("Mapping[str, Any]", body)
    action = asked.get("action", "run")
    if action not in ACTIONS:
        raise BadRequest(("action", f"is not known; use one of {', '.join(ACTIONS)}"))
    try:
        return await act(request.state["worker"], action, asked)
    except Impossible as exc:
        raise BadRequest(("name" if action == "run" else "id", str(exc))) from None


async def act(worker: Worker, action: str, asked: Mapping[str, Any]) -> Response:
    if action == "run":
        id = await worker.run(text_of(asked, "name"), asked.get("payload"))
        return JSONResponse({"success": True, "data": {"id": id}}, 202)
    id = text_of(asked, "id")
    state = "deleted"
    if action == "cancel":
        state = await worker.cancel(id)
    elif action == "replay":
        await worker.replay(id)
        state = "waiting"
    else:
        await worker.delete(id)
    return JSONResponse({"success": True, "data": {"id": id, "state": state}})


def text_of(asked: Mapping[str, Any], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest((name, "is required: a non-empty text"))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRequest((name, "has half of a surrogate pair, which is not Unicode text")) from None
    if "\0" in value:
        raise BadRequest((name, "has a NUL character"))
    return value
