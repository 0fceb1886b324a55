"""POST /api/chat/ui: the same chat for `useChat` of the Vercel AI SDK, in its UI message stream, version 1.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol names the parts. The conversation is the client's chat id, and
its history is ours: only the last question is read, from a body with all ``messages`` or with one ``message``. An
answer that is asked for again, or a question that was edited, takes the place of the old one and of all that came
after it.
"""

import json
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request

from answers import Answer
from answers.wire import Parts
from auth import requires, service, visitor, who_asks
from chat import Asked, ask, read_question, told_by
from errors import BadRequest
from sse import EventStream
from state import State
from store import Question
from typed.inputs import Value

ASKED = Value(Asked)

AGAIN = "regenerate-message"
MESSAGE = {"role": "user", "parts": [{"type": "text", "text": "Hi"}]}
EXAMPLE = f"must hold a user message such as {json.dumps(MESSAGE)}"
SENT = Field(
    description="What useChat sends: the chat's id, and all of its messages or the last one alone.",
    examples=[{"id": "chat", "messages": [MESSAGE]}, {"id": "chat", "message": MESSAGE}],
)


@requires(service, visitor)
async def POST(request: Request[State], body: Annotated[Any, SENT]) -> EventStream[Any]:
    state = request.state
    asked, has_text = as_question(body)
    id, is_again = body.get("messageId"), body.get("trigger") == AGAIN
    question = read_question(who_asks(request), asked)
    request.scope.get("log", {})["conversation"] = question.conversation

    async def find() -> Answer:
        if not is_again:
            return await ask(state, question, again=question.message_id is not None and id == question.message_id)
        return await ask(state, await known(state, question, id, has_text), again=True)

    return told_by(
        request,
        find,
        Parts(reasoning=question.reasoning),
        headers={"X-Conversation-Id": question.conversation},
    )


async def known(state: State, question: Question, id: object, has_text: bool) -> Question:
    """Return the question whose answer is asked for again: an id that is not known means the last one."""
    answer_of = [id, id.removesuffix("-answer")] if isinstance(id, str) and "\0" not in id else []
    ids = [question.message_id] if question.message_id else answer_of
    found = await state["store"].asked(question.place, *ids, text=question.content if has_text else "")
    if found is None and not has_text:
        raise BadRequest(("messages", EXAMPLE))
    if found is None:
        return question
    message_id, text = found
    return replace(question, message_id=message_id, content=question.content if has_text else text)


def as_question(body: Any) -> tuple[Asked, bool]:
    """Turn what `useChat` sends into what /api/chat takes, and say whether it has a text. Raises `BadRequest`.

    An answer can be asked for again without a question: the stored one takes its place.
    """
    try:
        sent: list[Any] = [body["message"]] if "message" in body else body.get("messages", [])
        asked = [message for message in sent if message["role"] == "user"][-1:]
        parts: list[Any] = asked[0]["parts"] if asked or body.get("trigger") != AGAIN else []
        text = "".join(part["text"] for part in parts if part["type"] == "text") if asked else "?"
        has_file = any(part["type"] == "file" for part in parts)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise BadRequest(("messages", EXAMPLE)) from None
    if has_file:
        raise BadRequest(("messages", "holds a file, and only text can be sent to the model"))
    if not isinstance(body.get("id"), str):
        raise BadRequest(("id", "must be the chat's id"))
    own = {"conversationId": body["id"], "message": text, "messageId": asked[0].get("id") if asked else None}
    return ASKED.check({**body, **own}), bool(asked)
