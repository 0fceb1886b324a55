"""GET /api/conversations: an owner's conversations, newest first, a page at a time."""

import base64
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from starlette.requests import Request

from auth import operator, requires, service, visitor, who_asks
from chat import conversation_json, read_place
from errors import BadRequest
from jsonresponse import JSONResponse
from state import State


def read_cursor(text: str) -> tuple[float, str] | None:
    if not text:
        return None
    try:
        created_at, key = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if isinstance(created_at, float) and isinstance(key, str) and re.fullmatch("[!-~]{1,200}", key):
            return created_at, key
    except (ValueError, TypeError, RecursionError):
        pass
    raise ValueError("must be the 'next' of the page before")


@dataclass
class Page:
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    cursor: Annotated[
        tuple[float, str] | None, BeforeValidator(read_cursor), WithJsonSchema({"type": ["string", "null"]})
    ] = None
    channel: str = "web"
    channelId: str | None = None
    all: str | None = None


@requires(service, visitor, operator)
async def GET(request: Request[State], query: Page) -> JSONResponse[dict[str, Any]]:
    """List the conversations of ``channelId``; ``next`` is the cursor of the next page, or null.

    A service or an operator may say ``all=true`` in the place of ``channelId``, and an operator names the ``channel``.
    """
    channel, owner, everybody = read_place(who_asks(request), request.query_params)
    if owner is None and not everybody:
        raise BadRequest(("channelId", "is required, or all=true for everybody's"))
    rows = await request.state["store"].conversations(channel, owner, query.limit + 1, query.cursor)
    page = rows[: query.limit]
    last = page[-1] if len(rows) > len(page) else None
    data = {
        "conversations": [conversation_json(row) for row in page],
        "next": cursor(last["created_at"], last["key"]) if last else None,
    }
    return JSONResponse({"success": True, "data": data})


def cursor(created_at: float, key: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([created_at, key]).encode()).decode().rstrip("=")
