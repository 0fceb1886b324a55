"""GET /api/chat/ui/[id]/stream: what `useChat({ resume: true })` asks for when its page is loaded or shown again.

The answer from its beginning and then on, so that the client can build its message again; 204 where it has missed
nothing (https://ai-sdk.dev/docs/ai-sdk-ui/chatbot-resume-streams). An answer that ended a moment ago is told too: a
client whose connection was cut would take its half of it for the whole. So is one that broke off, with its error.
"""

from typing import Annotated, Any

from starlette.requests import Request
from starlette.responses import Response

from answers.wire import Parts
from auth import operator, requires, service, visitor
from chat import Following, follow, read_key
from sse import EventStream
from state import State

RECENT = 60.0  # seconds


@requires(service, visitor, operator)
async def GET(request: Request[State], query: Following) -> EventStream[Any] | Annotated[Response, 204]:
    state, place = request.state, await read_key(request, query)
    turn = await state["store"].last(place, running=False)
    if turn is None or (turn.state == "done" and turn.touched_at < state["store"].clock() - RECENT):
        return Response(status_code=204)
    return follow(request, turn, place[2], Parts(reasoning=query.reasoning == "true"))
