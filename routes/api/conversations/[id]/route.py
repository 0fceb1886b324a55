"""GET and DELETE /api/conversations/[id]: one conversation with its messages. Another owner's is 404.

Whose it is stands in ``?channel=web&channelId=…``, as in the question that began it; a visitor's is always its own.
"""

from typing import Any

from starlette.requests import Request

from auth import operator, requires, service, visitor
from chat import Place, conversation_json, messages_json, read_key
from jsonresponse import JSONResponse
from state import State


@requires(service, visitor, operator)
async def GET(request: Request[State], query: Place) -> JSONResponse[dict[str, Any]]:
    channel, owner, id = await read_key(request, query)
    row, messages = await request.state["store"].conversation(id, channel, owner)
    request.state["answers"].refresh(messages)
    return JSONResponse({"success": True, "data": conversation_json(row) | {"messages": messages_json(messages)}})


@requires(service, visitor, operator)
async def DELETE(request: Request[State], query: Place) -> JSONResponse[dict[str, Any]]:
    channel, owner, id = await read_key(request, query)
    await request.state["store"].delete(id, channel, owner)
    return JSONResponse({"success": True, "data": {"id": id}})
