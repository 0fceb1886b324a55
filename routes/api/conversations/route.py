"""GET /api/conversations: an owner's conversations, newest first, a page at a time."""

import base64
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from starlette.requests import Request

from auth import operator, place, requires, service, visitor, who_asks
from chat import Place, conversation_json
from db import Row
from errors import BadRequest
from jsonresponse import JSONResponse
from state import State

Moment = Annotated[float, Field(allow_inf_nan=False)]
CURSOR = TypeAdapter(tuple[Moment, Annotated[str, Field(pattern="^[!-~]{1,200}$")]])


@dataclass
class Page(Place):
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    cursor: str = ""
    all: Literal["true"] | None = None


@requires(service, visitor, operator)
async def GET(request: Request[State], query: Page) -> JSONResponse[dict[str, Any]]:
    """List the conversations of ``channelId``; ``next`` is the cursor of the next page, or null.

    A service or an operator may say ``all=true`` in the place of ``channelId``, and an operator names the ``channel``.
    """
    cursor = read_cursor(query.cursor) if query.cursor else None
    if query.all and query.channelId:
        raise BadRequest(("all", "cannot be used with a channelId"))
    channel, owner = place(who_asks(request), query.channel, query.channelId, several=bool(query.all))
    if owner is None and not query.all:
        raise BadRequest(("channelId", "is required, or all=true for everybody's"))
    rows = await request.state["store"].conversations(channel, owner, query.limit + 1, cursor)
    page = [conversation_json(row) for row in rows[: query.limit]]
    more = cursor_of(rows[query.limit - 1]) if len(rows) > query.limit else None
    return JSONResponse({"success": True, "data": {"conversations": page, "next": more}})


def cursor_of(row: Row) -> str:
    return base64.urlsafe_b64encode(json.dumps([row["created_at"], row["key"]]).encode()).decode().rstrip("=")


def read_cursor(text: str) -> tuple[float, str]:
    try:
        return CURSOR.validate_json(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), strict=True)
    except ValueError:
        raise BadRequest(("cursor", "must be the 'next' of the page before")) from None
