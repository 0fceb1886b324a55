"""POST /api/chat: stream a model's answer as server-sent events. docs/chat.md has the wire format."""

from typing import Annotated

from starlette.requests import Request

from answers.wire import Frame, Frames
from auth import requires, service, visitor, who_asks
from chat import Asked, ask, read_after, read_question, told_by
from sse import EventStream
from state import State
from typed import AnyContentType


@requires(service, visitor)
async def POST(request: Request[State], body: Annotated[Asked, AnyContentType]) -> EventStream[Frame]:
    """Ask, and be told the answer as it is written."""
    question = read_question(who_asks(request), body)
    request.scope.get("log", {})["conversation"] = question.conversation
    after = read_after(request) if question.message_id else None
    return told_by(
        request,
        lambda: ask(request.state, question),
        Frames(after=after, reasoning=question.reasoning),
        after=after,
        at_once=after is not None,
        headers={"X-Conversation-Id": question.conversation},
    )
