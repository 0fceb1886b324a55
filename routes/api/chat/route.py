"""POST /api/chat: stream a model's answer as server-sent events. docs/chat.md has the wire format."""

from starlette.requests import Request
from starlette.responses import Response

from answers.wire import Frames
from auth import requires, service, visitor, who_asks
from chat import ask, read_after, read_question, told_by
from state import State


@requires(service, visitor)
async def POST(request: Request[State]) -> Response:
    state = request.state
    question = read_question(who_asks(request), await request.json(), state["config"].models)
    request.scope.get("log", {})["conversation"] = question.conversation
    after = read_after(request) if question.message_id else None
    return told_by(
        request,
        lambda: ask(state, question),
        Frames(after=after, reasoning=question.reasoning),
        after=after,
        at_once=after is not None,
        headers={"X-Conversation-Id": question.conversation},
    )
