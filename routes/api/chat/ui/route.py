"""POST /api/chat/ui: the same chat for `useChat` of the Vercel AI SDK, in its UI message stream, version 1.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol names the parts. The conversation is the client's chat id, and
its history is ours: only the last question is read, from a body with all ``messages`` or with one ``message``. An
answer that is asked for again, or a question that was edited, takes the place of the old one and of all that came
after it.
"""

from dataclasses import replace
from typing import Any

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
EXAMPLE = 'must hold a user message such as {"role": "user", "parts": [{"type": "text", "text": "Hi"}]}'


@requires(service, visitor)
async def POST(request: Request[State], body: Any) -> EventStream[Any]:
    state = request.state
    fields, id = as_question(body), body.get("messageId")
    is_again = body.get("trigger") == AGAIN
    has_text = "message" in fields
    if is_again and not has_text:
        fields["message"] = "?"  # the stored one takes its place
    question = read_question(who_asks(request), ASKED.check(fields))
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


def as_question(body: Any) -> dict[str, Any]:
    """Turn what `useChat` sends into what /api/chat takes. Raises `BadRequest`.

    An answer can be asked for again without a question: then there is no ``message``.
    """
    try:
        sent: list[Any] = [body["message"]] if "message" in body else body.get("messages", [])
        asked = [message for message in sent if message["role"] == "user"][-1:]
        parts: list[Any] = asked[0]["parts"] if asked or body.get("trigger") != AGAIN else []
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        has_file = any(part["type"] == "file" for part in parts)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise BadRequest(("messages", EXAMPLE)) from None
    if has_file:
        raise BadRequest(("messages", "holds a file, and only text can be sent to the model"))
    if not isinstance(body.get("id"), str):
        raise BadRequest(("id", "must be the chat's id"))
    fields = {name: body[name] for name in ("model", "channel", "channelId", "reasoning") if name in body}
    fields["conversationId"] = body["id"]
    return fields | {"message": text, "messageId": asked[0].get("id")} if asked else fields
