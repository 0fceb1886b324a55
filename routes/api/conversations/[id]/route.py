"""GET and DELETE /api/conversations/[id]: one conversation with its messages. Another channel's is 404."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from auth import require_bearer
from chat import conversation_json, message_json
from state import State


async def GET(request: Request[State]) -> Response:
    require_bearer(request.headers, request.state["config"].webchat_token)
    channel = request.query_params.get("channel", "web")
    row, messages = await request.state["store"].conversation(request.path_params["id"], channel)
    data = conversation_json(row) | {"messages": [message_json(message) for message in messages]}
    return JSONResponse({"success": True, "data": data})


async def DELETE(request: Request[State]) -> Response:
    require_bearer(request.headers, request.state["config"].webchat_token)
    id = request.path_params["id"]
    await request.state["store"].delete(id, request.query_params.get("channel", "web"))
    return JSONResponse({"success": True, "data": {"id": id}})
