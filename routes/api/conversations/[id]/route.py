"""GET and DELETE /api/conversations/[id]: one conversation with its messages. Another channel's is 404.

Whose it is stands in ``?channel=web&channelId=…``, as in the question that began it.
"""

from starlette.requests import Request
from starlette.responses import Response

from auth import require_bearer
from chat import conversation_json, message_json
from jsonresponse import JSONResponse
from state import State


async def GET(request: Request[State]) -> Response:
    require_bearer(request.headers, request.state["config"].webchat_token)
    row, messages = await request.state["store"].conversation(request.path_params["id"], *owner(request))
    data = conversation_json(row) | {"messages": [message_json(message) for message in messages]}
    return JSONResponse({"success": True, "data": data})


async def DELETE(request: Request[State]) -> Response:
    require_bearer(request.headers, request.state["config"].webchat_token)
    id = request.path_params["id"]
    await request.state["store"].delete(id, *owner(request))
    return JSONResponse({"success": True, "data": {"id": id}})


def owner(request: Request[State]) -> tuple[str, str | None]:
    query = request.query_params
    return query.get("channel", "web"), query.get("channelId")
