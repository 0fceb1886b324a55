"""GET and DELETE /api/chat/[id]/stream: follow the answer that a conversation is being given, and stop it.

Whose conversation it is stands in the query, as for /api/conversations/[id]. A plain `EventSource` can follow: when
its connection is cut it comes back with Last-Event-ID, and 204 tells it that there is nothing more.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from answers.wire import Frame, Frames
from auth import operator, requires, service, visitor
from chat import Following, Place, follow, read_after, read_key
from jsonresponse import JSONResponse
from sse import EventStream
from state import State
from store import NotFound


@dataclass
class Onwards(Following):
    after: Annotated[str, Field(pattern="^[0-9]{0,9}$")] = ""  # characters


@dataclass
class Stopping(Place):
    messageId: Annotated[str, Field(pattern=r"^[^\x00]*$")] = ""  # PostgreSQL does not take a NUL


@requires(service, visitor, operator)
async def GET(request: Request[State], query: Onwards) -> EventStream[Frame] | Annotated[Response, 204]:
    place, after = await read_key(request, query), read_after(request, query.after)
    turn = await request.state["store"].last(place, running=True)
    if turn is None:
        return Response(status_code=204)
    return follow(request, turn, place[2], Frames(after=after, reasoning=query.reasoning == "true"), after)


@requires(service, visitor, operator)
async def DELETE(request: Request[State], query: Stopping) -> JSONResponse[dict[str, Any]]:
    """Stop the answer to ``?messageId=…``, by the question's id or its own; without it the one that is written.

    404 where who asks has no such conversation; ``stopped`` is false where that answer is not being written.
    """
    state, place, id = request.state, await read_key(request, query), query.messageId
    turn = await state["store"].last(place, id, running=True)
    if turn is None and id:
        turn = await state["store"].last(place, id.removesuffix("-answer"), running=True)
    if turn is None and await state["store"].last(place, running=False) is None:
        raise NotFound(place[2])
    stopped = turn is not None and await state["answers"].stop(turn.turn)
    return JSONResponse({"success": True, "data": {"stopped": stopped}})
