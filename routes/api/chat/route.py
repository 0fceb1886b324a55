"""POST /api/chat: stream a model's answer as server-sent events. docs/chat.md has the wire format."""

import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from auth import require_bearer
from errors import BadRequest
from sse import Emit, EventStream
from state import State


@dataclass(frozen=True)
class ChatRequest:
    """What a client may send. Names are those of the wire."""

    message: str
    conversationId: str | None = None
    model: str = "smart"
    channel: str = "web"
    channelId: str | None = None


async def POST(request: Request[State]) -> Response:
    config, llm = request.state["config"], request.state["llm"]
    require_bearer(request.headers, config.webchat_token)
    chat = read_chat(await request.json(), config.models)

    async def write(emit: Emit) -> None:
        async with aclosing(llm.chat_stream(chat.model, [{"role": "user", "content": chat.message}])) as pieces:
            async for text in pieces:
                await emit({"text": text})

    return EventStream(write, headers={"X-Conversation-Id": chat.conversationId or str(uuid4())})


def read_chat(body: Any, models: Mapping[str, str]) -> ChatRequest:
    """Check a request's body. Raises `BadRequest` with every field that is wrong; unknown fields are left alone."""
    if not isinstance(body, dict):
        raise BadRequest(("body", 'must be a JSON object such as {"message": "Hello"}'))
    sent: dict[str, Any] = body  # pyright: ignore[reportUnknownVariableType]
    found = {name: sent[name] for name in ChatRequest.__dataclass_fields__ if name in sent}
    for name in ("conversationId", "channelId"):
        if found.get(name, "") is None:
            del found[name]  # null says that there is none
    wrong = [(name, problem) for name, value in found.items() if (problem := what_is_wrong(name, value, models))]
    if "message" not in found:
        wrong.insert(0, ("message", "is required: a non-empty string"))
    if wrong:
        raise BadRequest(*wrong)
    return ChatRequest(**found)


def what_is_wrong(name: str, value: object, models: Mapping[str, str]) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return "must be a non-empty string"
    if name == "model" and value not in models:
        return f"is not known; use one of {', '.join(models)}"
    if name == "conversationId" and not re.fullmatch(r"[!-~]{1,200}", value):
        return "must be 1 to 200 visible ASCII characters without blanks: it is sent back in a header"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which is not Unicode text"
    return None
