"""POST /api/chat: stream a model's answer as server-sent events. docs/chat.md has the wire format."""

from starlette.requests import Request
from starlette.responses import Response

from auth import requires, service, visitor, who_asks
from chat import answer, read_question
from sse import Emit, EventStream
from state import State


@requires(service, visitor)
async def POST(request: Request[State]) -> Response:
    state = request.state
    question = read_question(who_asks(request), await request.json(), state["config"].models)
    request.scope.get("log", {})["conversation"] = question.conversation

    async def write(emit: Emit) -> None:
        await answer(state, question, lambda pieces: emit(*[{"text": text} for text in pieces]), stream)

    stream = EventStream(write, headers={"X-Conversation-Id": question.conversation})
    return stream
