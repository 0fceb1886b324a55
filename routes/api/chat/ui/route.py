"""POST /api/chat/ui: the same chat for `useChat` of the Vercel AI SDK, in its UI message stream, version 1.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol names the parts. The conversation is the client's chat id, and
its history is ours: of the messages that the client sends, only the last question is read. An answer that is asked
for again, or a question that was edited, takes the place of the old one and of all that came after it.
"""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from auth import requires, service, visitor, who_asks
from chat import answer, read_question
from errors import BadRequest
from sse import Emit, EventStream
from state import State


@requires(service, visitor)
async def POST(request: Request[State]) -> Response:
    state = request.state
    body = await request.json()
    question = read_question(who_asks(request), as_question(body), state["config"].models)
    edited = question.message_id is not None and body.get("messageId") == question.message_id
    again = edited or body.get("trigger") == "regenerate-message"
    request.scope.get("log", {})["conversation"] = question.conversation

    start = {"type": "start"}
    if question.message_id is not None:  # the client replaces what has the same id: where it sends none, it makes one
        start["messageId"] = f"{question.message_id}-answer"

    async def write(emit: Emit) -> None:
        begun = False

        async def say(pieces: Sequence[str]) -> None:
            nonlocal begun
            if not begun:
                begun = True
                await emit(start, {"type": "start-step"}, {"type": "text-start", "id": "text"}, pieces=0)
            await emit(*({"type": "text-delta", "id": "text", "delta": text} for text in pieces))

        await answer(state, question, say, stream, again=again)
        await emit({"type": "text-end", "id": "text"}, {"type": "finish-step"}, {"type": "finish"}, pieces=0)

    stream = EventStream(
        write,
        headers={"X-Conversation-Id": question.conversation, "x-vercel-ai-ui-message-stream": "v1"},
        on_error=lambda words: {"type": "error", "errorText": words},
    )
    return stream


def as_question(body: Any) -> dict[str, Any]:
    """Turn what `useChat` sends into what /api/chat takes. Raises `BadRequest`."""
    try:
        last = [message for message in body["messages"] if message["role"] == "user"][-1]
        parts: list[dict[str, Any]] = last["parts"]
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        if any(part["type"] == "file" for part in parts):
            raise BadRequest(("messages", "holds a file, and only text can be sent to the model"))
        question: dict[str, Any] = {"message": text, "messageId": last.get("id")}
    except (KeyError, IndexError, TypeError, AttributeError):
        example = 'must hold a user message such as {"role": "user", "parts": [{"type": "text", "text": "Hi"}]}'
        raise BadRequest(("messages", example)) from None
    if not isinstance(body.get("id"), str):
        raise BadRequest(("id", "must be the chat's id"))
    question["conversationId"] = body["id"]
    return question | {name: body[name] for name in ("model", "channel", "channelId") if name in body}
