"""GET /api/conversations: an owner's conversations, newest first, a page at a time."""

import base64
import json
import re

from starlette.requests import Request
from starlette.responses import Response

from auth import operator, requires, service, visitor, who_asks
from chat import conversation_json, read_place
from errors import BadRequest
from jsonresponse import JSONResponse
from state import State

LIMIT = 20
MOST = 100


@requires(service, visitor, operator)
async def GET(request: Request[State]) -> Response:
    """Answer ``?channelId=…&limit=20&cursor=…``; ``next`` is the cursor of the next page, or null.

    A service or an operator may say ``all=true`` in the place of ``channelId``, and an operator names the ``channel``.
    """
    query = request.query_params
    channel, owner, everybody = read_place(who_asks(request), query)
    limit = query.get("limit", str(LIMIT))
    if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= MOST:
        raise BadRequest(("limit", f"must be a whole number from 1 to {MOST}"))
    before = read_cursor(query["cursor"]) if query.get("cursor") else None
    if owner is None and not everybody:
        raise BadRequest(("channelId", "is required, or all=true for everybody's"))
    rows = await request.state["store"].conversations(channel, owner, int(limit) + 1, before)
    page = rows[: int(limit)]
    last = page[-1] if len(rows) > len(page) else None
    data = {
        "conversations": [conversation_json(row) for row in page],
        "next": cursor(last["created_at"], last["key"]) if last else None,
    }
    return JSONResponse({"success": True, "data": data})


def cursor(created_at: float, key: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([created_at, key]).encode()).decode().rstrip("=")


def read_cursor(text: str) -> tuple[float, str]:
    try:
        created_at, key = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if isinstance(created_at, float) and isinstance(key, str) and re.fullmatch("[!-~]{1,200}", key):
            return created_at, key
    except (ValueError, TypeError, RecursionError):
        pass
    raise BadRequest(("cursor", "must be the 'next' of the page before"))
