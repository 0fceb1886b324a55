"""GET and DELETE /api/conversations/[id]: one conversation with its messages. Another owner's is 404.

Whose it is stands in ``?channel=web&channelId=…``, as in the question that began it; a visitor's is always its own.
"""

from starlette.requests import Request
from starlette.responses import Response

from auth import operator, requires, service, visitor, who_asks
from chat import conversation_json, message_json, read_place
from errors import BadRequest
from jsonresponse import JSONResponse
from state import State
from store import NotFound


@requires(service, visitor, operator)
async def GET(request: Request[State]) -> Response:
    row, messages = await request.state["store"].conversation(*await key(request))
    data = conversation_json(row) | {"messages": [message_json(message) for message in messages]}
    return JSONResponse({"success": True, "data": data})


@requires(service, visitor, operator)
async def DELETE(request: Request[State]) -> Response:
    id, channel, owner = await key(request)
    await request.state["store"].delete(id, channel, owner)
    return JSONResponse({"success": True, "data": {"id": id}})


async def key(request: Request[State]) -> tuple[str, str, str | None]:
    """Return the id, the channel and the owner that a request names. An operator need not know the owner."""
    id, who = request.path_params["id"], who_asks(request)
    channel, owner, _ = read_place(who, request.query_params)
    if "\0" in id:
        raise NotFound(id)  # PostgreSQL has no such character
    if who.kind == "operator" and owner is None:
        owners = await request.state["store"].owners(id, channel)
        if len(owners) > 1:
            raise BadRequest(("channelId", "is required: several have a conversation of this id"))
        owner = owners[0] if owners else None
    return id, channel, owner
