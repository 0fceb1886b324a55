"""GET and DELETE /api/chat/[id]/stream: follow the answer that a conversation is being given, and stop it.

Whose conversation it is stands in the query, as for /api/conversations/[id]. A plain `EventSource` can follow: when
its connection is cut it comes back with Last-Event-ID, and 204 tells it that there is nothing more.
"""

from starlette.requests import Request
from starlette.responses import Response

from answers import Answer
from answers.wire import Frames
from auth import operator, requires, service, visitor
from chat import read_after, read_flag, read_key, told_by
from errors import BadRequest
from jsonresponse import JSONResponse
from state import State
from store import NotFound


@requires(service, visitor, operator)
async def GET(request: Request[State]) -> Response:
    state, place, after = request.state, await read_key(request), read_after(request)
    reasoning = read_flag(request.query_params, "reasoning")
    turn = await state["store"].last(place, running=True)
    if turn is None:
        return Response(status_code=204)
    request.scope.get("log", {})["conversation"] = place[2]

    async def find() -> Answer:
        return state["answers"].of(turn)

    return told_by(request, find, Frames(after=after, reasoning=reasoning), after=after, at_once=True)


@requires(service, visitor, operator)
async def DELETE(request: Request[State]) -> Response:
    """Stop the answer to ``?messageId=…``, by the question's id or its own; without it the one that is written.

    404 where who asks has no such conversation; ``stopped`` is false where that answer is not being written.
    """
    state, place, id = request.state, await read_key(request), request.query_params.get("messageId", "")
    if "\0" in id:
        raise BadRequest(("messageId", "has a NUL character"))  # which PostgreSQL does not take
    turn = await state["store"].last(place, id, running=True)
    if turn is None and id:
        turn = await state["store"].last(place, id.removesuffix("-answer"), running=True)
    if turn is None and await state["store"].last(place, running=False) is None:
        raise NotFound(place[2])
    stopped = turn is not None and await state["answers"].stop(turn.turn)
    return JSONResponse({"success": True, "data": {"stopped": stopped}})
