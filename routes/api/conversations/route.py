"""GET /api/conversations: a channel's conversations, newest first, a page at a time."""

import base64
import json
import re

from starlette.requests import Request
from starlette.responses import Response

from auth import require_bearer
from chat import conversation_json
from errors import BadRequest
from jsonresponse import JSONResponse
from state import State

LIMIT = 20
MOST = 100


async def GET(request: Request[State]) -> Response:
    """Answer ``?channel=web&channelId=…&limit=20&cursor=…``; ``next`` is the cursor of the next page, or null."""
    require_bearer(request.headers, request.state["config"].webchat_token)
    query = request.query_params
    limit = query.get("limit", str(LIMIT))
    if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= MOST:
        raise BadRequest(("limit", f"must be a whole number from 1 to {MOST}"))
    before = read_cursor(query["cursor"]) if query.get("cursor") else None
    rows = await request.state["store"].conversations(
        query.get("channel", "web"), query.get("channelId"), int(limit) + 1, before
    )
    page = rows[: int(limit)]
    last = page[-1] if len(rows) > len(page) else None
    data = {
        "conversations": [conversation_json(row) for row in page],
        "next": cursor(last["created_at"], last["id"]) if last else None,
    }
    return JSONResponse({"success": True, "data": data})


def cursor(created_at: float, id: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([created_at, id]).encode()).decode().rstrip("=")


def read_cursor(text: str) -> tuple[float, str]:
    try:
        created_at, id = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if isinstance(created_at, float) and isinstance(id, str):
            id.encode()  # half of a surrogate pair can be written in JSON, but not looked for
            return created_at, id
    except (ValueError, TypeError, RecursionError):
        pass
    raise BadRequest(("cursor", "must be the 'next' of the page before"))
